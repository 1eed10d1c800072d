"""Lays files out in the official tree: from a folder beside it, as a whole, never over something else."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from alpro.errors import DataError
from alpro.files.json_files import read_json_object, write_json

SHOWN = 5


def lay_out(staged: Path, target: Path) -> None:
    """Move everything below `staged` to the same place below `target`; a file that is there already, with the same
    bytes, stays. Raises DataError, with nothing moved, when another file stands in the way, or a link leads nowhere.
    """
    clashes = list(_clashes(staged, target))
    if clashes:
        more = f" and {len(clashes) - SHOWN} more" if len(clashes) > SHOWN else ""
        raise DataError(f"{', '.join(clashes[:SHOWN])}{more}: in the way, with other content; move it away and run this again")
    _merge(staged, target)


def _clashes(staged: Path, target: Path) -> Iterator[str]:
    if target.is_symlink() and not target.exists():
        raise DataError(f"{target}: the link leads nowhere (to {target.readlink()}); mend or remove it")
    if not target.exists():
        return
    if staged.is_dir() and target.is_dir():
        for child in sorted(staged.iterdir()):
            yield from _clashes(child, target / child.name)
    elif staged.is_dir() or target.is_dir() or not filecmp.cmp(staged, target, shallow=False):
        yield str(target)


def _merge(staged: Path, target: Path) -> None:
    if not target.exists():
        _put(staged, target)
    elif staged.is_dir():
        for child in sorted(staged.iterdir()):
            _merge(child, target / child.name)


def _put(staged: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(staged, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        aside = target.with_name(f".{target.name}.part")  # `target` lies on another disk, behind a link
        if staged.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(staged, aside)
        else:
            shutil.copyfile(staged, aside)
        os.replace(aside, target)


# --- what was fetched ---------------------------------------------------------------------------------------


def receipt_path(root: Path, name: str) -> Path:
    """Where it is recorded what came from where, with its hashes; it belongs into git."""
    return root / "data" / "fetched" / f"{name}.json"


def read_receipt(root: Path, name: str) -> dict[str, Any]:
    """{file name: its entry}; empty where nothing was recorded. Raises DataError for a file that is none."""
    path = receipt_path(root, name)
    if not path.exists():
        return {}
    entries = read_json_object(path, DataError, "restore or remove it")
    if not all(isinstance(entry, dict) for entry in entries.values()):
        raise DataError(f"{path}: not a record of `alpro data fetch`; restore or remove it")
    return entries


def write_receipt(root: Path, name: str, entries: dict[str, Any]) -> None:
    """Record entries by file name, beside what is recorded already."""
    write_json(receipt_path(root, name), read_receipt(root, name) | entries)


def dvc_targets(placed: Iterable[str]) -> list[str]:
    """The folders, or single files, that `dvc add` should take for these files: data/SET/PART, else the folder."""
    targets = set()
    for path in placed:
        parts = path.split("/")
        alone = len(parts) < 3 or (parts[0] == "data" and len(parts) == 3)
        targets.add(path if alone else "/".join(parts[: min(3, len(parts) - 1)]))
    return sorted(targets)


def is_there(root: Path, entry: dict[str, Any]) -> bool:
    """Whether all files that an entry laid out still are there, with their sizes."""
    placed: dict[str, int] = entry["placed"]
    return bool(placed) and all(_size(root / path) == size for path, size in placed.items())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
