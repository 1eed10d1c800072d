"""Finds user files inside stage outputs, which `dvc repro` would silently delete, and keeps them from it.

`python -m flows.stray_files` runs before `dvc repro`. After a run that succeeded, such a file must be the user's: nothing
starts until EDITED=keep (move them below .state/kept) or EDITED=discard (let DVC delete them) says what to do. After an
interrupted or failed run it may as well be half-written output, so it is moved there without asking, and the run resumes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import yaml

from flows.commands import LONG_S, ask, dvc

KEPT = Path(".state/kept")
UNFINISHED = Path(".make/unfinished")  # stands while the pipeline runs, and afterwards unless it ended well
SHOWN = 10


def edited_outputs(root: Path) -> list[str]:
    """Paths in outputs of stages that are not what a stage wrote there. Data that .dvc files track are their owner's."""
    status = json.loads(ask([dvc(), "data", "status", "--json", "--granular"], root, LONG_S))
    changed = status.get("uncommitted", {})
    data = _tracked_data(root)
    return sorted(
        path
        for kind in ("added", "modified")
        for path in changed.get(kind, [])
        if not path.endswith("/") and not any(path == place or path.startswith(f"{place}/") for place in data)
    )


def put_aside(root: Path, paths: list[str]) -> Path:
    """Move these files to a folder of their own, below .state/kept; returns it."""
    place = root / KEPT / time.strftime("%Y%m%d-%H%M%S")
    for path in paths:
        target = place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / path).rename(target)
    return place


def _tracked_data(root: Path) -> set[str]:
    listed = ask(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", "*.dvc"], root)
    found = set()
    for name in filter(None, listed.split("\0")):
        file = root / name
        if file.is_file():
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            found |= {(Path(name).parent / out["path"]).as_posix() for out in content.get("outs", [])}
    return found


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
