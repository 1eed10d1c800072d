"""Before `dvc repro`: files that somebody put into, or edited inside, a stage's output are named, not deleted without a word.

After a run that ended well such a file can only be somebody's: nothing starts until EDITED=keep (moved below .state/kept)
or EDITED=discard (left to DVC) says what to do. After an interrupted or failed run it may as well be a half-written output,
so it is moved there without asking: nothing is lost, and the run goes on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flows.edited import edited_outputs, put_aside

UNFINISHED = Path(".make/unfinished")  # stands while the pipeline runs, and afterwards unless it ended well
SHOWN = 10


def decide(root: Path, choice: str) -> int:
    """Look and act; 1 where somebody must say what they want. Leaves the mark of an unfinished run."""
    if choice not in ("", "keep", "discard"):
        print(f"repro: EDITED={choice} is neither keep nor discard", file=sys.stderr)
        return 1
    try:
        paths = edited_outputs(root)
    except RuntimeError as error:
        print(f"repro: {error}", file=sys.stderr)
        return 1
    unfinished = root / UNFINISHED
    if paths and (choice == "keep" or (not choice and unfinished.exists())):
        place = put_aside(root, paths)
        why = "" if choice else ", left by the last run, which did not end well, or put there since"
        print(f"repro: moved {_named(paths)}{why}, to {place.relative_to(root)}")
    elif paths and not choice:
        print(
            f"repro: in outputs of stages, and not the stages' own: {_named(paths)}; DVC would delete them. "
            "Keep them aside with `make repro EDITED=keep`, or let them go with `make repro EDITED=discard`",
            file=sys.stderr,
        )
        return 1
    unfinished.parent.mkdir(exist_ok=True)
    unfinished.touch()
    return 0


def _named(paths: list[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"{', '.join(paths[:SHOWN])}{more}"


if __name__ == "__main__":
    sys.exit(decide(Path.cwd(), os.environ.get("EDITED", "")))
