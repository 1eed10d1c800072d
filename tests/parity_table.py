"""Print the parity table: `python -m tests.parity_table [--fast] [case ...]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tests.parity import CASES, TESTED, worst

ROOT = Path(__file__).parents[1]
# Files of the released code's model: their lines (with comments and blanks), and the files of alpro/models that replace them.
LINES = {
    "xbert.py": (1915, ("bert.py",)),
    "timesformer (4 files)": (1500, ("timesformer.py",)),
    "alpro_models.py": (915, ("heads.py", "encoders.py", "prompter.py")),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="names of cases, or prefixes of names (default: all)")
    parser.add_argument("--fast", action="store_true", help="skip the slow cases")
    options = parser.parse_args()
    names = [n for n in CASES if not options.cases or n.startswith(tuple(options.cases))]
    names = [n for n in names if not (options.fast and CASES[n].slow)]
    print("| case | compared | largest relative error | tolerance | of | seconds |\n|---|---|---|---|---|---|")
    failed = False
    for name in names:
        start = time.monotonic()
        difference, differences = worst(name)
        good = all(d.error <= d.tolerance for d in differences)
        failed |= not good
        seconds = time.monotonic() - start
        cells = (
            name,
            len(differences),
            f"{difference.error:.1e}",
            f"{difference.tolerance:.0e}",
            difference.what,
            f"{seconds:.0f}",
        )
        print("| " + " | ".join(map(str, cells)) + (" |" if good else " | DIFFERS |"), flush=True)
    for name in (n for n in TESTED if not options.cases or n.startswith(tuple(options.cases))):
        start = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "", *TESTED[name]], cwd=ROOT, capture_output=True, text=True
        )
        failed |= run.returncode != 0
        result = run.stdout.strip().splitlines()[-1].split(" in ")[0]
        end = "|" if run.returncode == 0 else "| DIFFERS |"
        print(f"| {name} | {result} | 0 | exact | its tests | {time.monotonic() - start:.0f} {end}", flush=True)
    print("\n| released | lines | here | lines |\n|---|---|---|---|")
    for released, (lines, files) in LINES.items():
        here = sum(len((ROOT / "alpro/models" / file).read_text().splitlines()) for file in files)
        print(f"| {released} | {lines} | {', '.join(files)} | {here} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
