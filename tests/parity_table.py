"""Print the table of parity: `python -m tests.parity_table [--fast] [case ...]`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.parity import CASES, worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="names of cases, or beginnings of names; all when left out")
    parser.add_argument("--fast", action="store_true", help="leave out the cases that take long")
    options = parser.parse_args()
    names = [n for n in CASES if not options.cases or n.startswith(tuple(options.cases))]
    names = [n for n in names if not (options.fast and CASES[n].slow)]
    print("| case | compared | largest relative error | tolerance | of | seconds |\n|---|---|---|---|---|---|")
    failed = False
    for name in names:
        start = time.monotonic()
        difference, everything = worst(name)
        good = all(d.error <= d.tolerance for d in everything)
        failed |= not good
        seconds = time.monotonic() - start
        cells = (
            name,
            len(everything),
            f"{difference.error:.1e}",
            f"{difference.tolerance:.0e}",
            difference.what,
            f"{seconds:.0f}",
        )
        print("| " + " | ".join(map(str, cells)) + (" |" if good else " | DIFFERS |"), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
