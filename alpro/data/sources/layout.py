"""The official tree on disk: moves prepared files into it without overwriting anything, and records what was fetched."""

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

SHOWN = 5  # files that a message lists


def lay_out(staged: Path, target: Path) -> None:
    """Move everything below `staged` to the same path below `target`; existing files with equal content stay.

    Raises DataError, before anything is moved, if a file with different content exists or a link is broken.
    """
    conflicts = list(_conflicts(staged, target))
    if conflicts:
        more = f" and {len(conflicts) - SHOWN} more" if len(conflicts) > SHOWN else ""
        raise DataError(
            f"{', '.join(conflicts[:SHOWN])}{more}: already exists with different content; move it away and try again"
        )
    _merge(staged, target)


def _conflicts(staged: Path, target: Path) -> Iterator[str]:
    if target.is_symlink() and not target.exists():
        raise DataError(f"{target}: broken link (to {target.readlink()}); repair or remove it")
    if not target.exists():
        return
    if staged.is_dir() and target.is_dir():
        for child in sorted(staged.iterdir()):
            yield from _conflicts(child, target / child.name)
    elif staged.is_dir() or target.is_dir() or not filecmp.cmp(staged, target, shallow=False):
        yield str(target)


def _merge(staged: Path, target: Path) -> None:
    if not target.exists():
        _move(staged, target)
    elif staged.is_dir():
        for child in sorted(staged.iterdir()):
            _merge(child, target / child.name)


def _move(staged: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(staged, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = target.with_name(f".{target.name}.part")  # a link leads to another disk, so copy first
        if staged.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(staged, temporary)
        else:
            shutil.copyfile(staged, temporary)
        os.replace(temporary, target)


# --- receipts ---------------------------------------------------------------------------------------------


def receipt_path(root: Path, name: str) -> Path:
    """Return the path of a set's receipt: the fetched files with their hashes. It belongs in git."""
    return root / "data" / "fetched" / f"{name}.json"


def read_receipt(root: Path, name: str) -> dict[str, Any]:
    """Return a set's receipt, {file name: entry}; empty if there is none. Raises DataError if it is damaged."""
    path = receipt_path(root, name)
    if not path.exists():
        return {}
    entries = read_json_object(path, DataError, "restore or remove it")
    if not all(isinstance(entry, dict) for entry in entries.values()):
        raise DataError(f"{path}: not a record of `alpro data fetch`; restore or remove it")
    return entries


def write_receipt(root: Path, name: str, entries: dict[str, Any]) -> None:
    """Add entries to a set's receipt, by file name."""
    write_json(receipt_path(root, name), read_receipt(root, name) | entries)


def dvc_targets(placed: Iterable[str]) -> list[str]:
    """Return what to pass to `dvc add` for these files: folders such as data/SET/videos, or single files."""
    targets = set()
    for path in placed:
        names = path.split("/")
        single = len(names) < 3 or (names[0] == "data" and len(names) == 3)
        targets.add(path if single else "/".join(names[: min(3, len(names) - 1)]))
    return sorted(targets)


def is_complete(root: Path, entry: dict[str, Any]) -> bool:
    """Return True if all files of a receipt entry still exist with their recorded sizes."""
    placed: dict[str, int] = entry["placed"]
    return bool(placed) and all(_size(root / path) == size for path, size in placed.items())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
