"""Finds user files inside stage outputs, which `dvc repro` would silently delete, and moves them aside.

`make repro` calls `prepare_repro` before `dvc repro`. After a successful run such a file must be the user's,
so `make repro` stops until EDITED=keep (move it to .state/kept) or EDITED=discard (let DVC delete it) is given. After an
interrupted or failed run it may be half-written output: it is moved without asking, and the run resumes.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from alpro.files.state import state_folder
from flows.commands import LONG_S, dvc, output_of

UNFINISHED = Path(".make/unfinished")  # created at the start of `make repro`, removed on success
MAX_NAMES = 10


def find_stray_files(root: Path) -> list[str]:
    """Return files in stage outputs that no stage wrote, or that were edited. Data tracked by .dvc files are ignored."""
    status = json.loads(output_of([dvc(), "data", "status", "--json", "--granular"], root, LONG_S))
    return select_stray_files(root, status.get("uncommitted", {}))


def select_stray_files(root: Path, changed: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the stray files among the uncommitted changes that `dvc data status` lists by kind."""
    data = _tracked_data(root)
    return sorted(
        path
        for kind in ("added", "modified")
        for path in changed.get(kind, [])
        if not path.endswith("/") and not any(path == tracked or path.startswith(f"{tracked}/") for tracked in data)
    )


def move_aside(root: Path, paths: Sequence[str]) -> Path:
    """Move these files to a new folder below .state/kept; return the folder."""
    folder = state_folder(root) / "kept" / time.strftime("%Y%m%d-%H%M%S")
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(root / path, target)  # the state folder may be on another disk
    return folder


def list_names(paths: Sequence[str]) -> str:
    """Join the first MAX_NAMES paths and count the rest: `a, b and 3 more`."""
    more = f" and {len(paths) - MAX_NAMES} more" if len(paths) > MAX_NAMES else ""
    return f"{', '.join(paths[:MAX_NAMES])}{more}"


def _tracked_data(root: Path) -> set[str]:
    listed = output_of(["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", "*.dvc"], root)
    paths = set()
    for name in filter(None, listed.split("\0")):
        file = root / name
        if file.is_file():
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            paths |= {(Path(name).parent / out["path"]).as_posix() for out in content.get("outs", [])}
    return paths


def prepare_repro(root: Path, choice: str, find: Callable[[], list[str]]) -> int:
    """Handle the stray files that `find` returns, and mark the run as unfinished. Returns 1 if the user must choose first."""
    if choice not in ("", "keep", "discard"):
        print(f"repro: EDITED={choice} is not valid; use keep or discard", file=sys.stderr)
        return 1
    paths = find()
    unfinished = root / UNFINISHED
    if paths and (choice == "keep" or (not choice and unfinished.exists())):
        folder = move_aside(root, paths)
        reason = "" if choice else " (left by the last run, which did not succeed, or added since)"
        print(
            f"repro: moved {list_names(paths)}{reason} to {folder.relative_to(root) if folder.is_relative_to(root) else folder}"
        )
    elif paths and not choice:
        print(
            f"repro: these files in stage outputs are not from a stage, and DVC would delete them: {list_names(paths)}. "
            "Run `make repro EDITED=keep` to move them aside, or `make repro EDITED=discard` to delete them",
            file=sys.stderr,
        )
        return 1
    unfinished.parent.mkdir(exist_ok=True)
    unfinished.touch()
    return 0
