"""What the user has already: an archive, a file, a folder of videos, or a whole official tree."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from alpro.data.media.extensions import VIDEO_EXTENSIONS
from alpro.data.sources.archives import is_archive
from alpro.data.sources.registry import File, Source
from alpro.errors import DataError
from alpro.terminal.progress import Report

VIDEOS = (*(f"*{end}" for extension in VIDEO_EXTENSIONS for end in (extension, extension.upper())), "*.")


def find(path: Path, source: Source) -> list[tuple[File, Path]]:
    """What of a set a path holds: each file of the registry that is there, else one made up for the folder or archive.

    Raises DataError when it holds nothing of the set.
    """
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path}: the link leads nowhere (to {path.readlink()})")
    if not path.exists():
        raise DataError(f"{path}: not found")
    by_name = {file.name: file for file in source.files}
    if path.is_file():
        if path.name in by_name:
            return [(by_name[path.name], path)]
        own = _own(path.name, source)
        if own and (is_archive(path) or any(fnmatch.fnmatchcase(path.name, pattern) for pattern in VIDEOS)):
            return [(own, path)]
        raise DataError(f"{path}: not one of {', '.join(by_name) or 'no files of its own'}, and no archive of videos")
    named = [(file, path / file.name) for file in source.files if (path / file.name).is_file()]
    if named:
        return named
    tables = [(file, path / file.into / file.rename) for file in source.files if file.rename]  # as laid out
    if found := [(file, table) for file, table in tables if table.is_file()]:
        return found
    if own := _own(path.name, source):
        inside = path / own.into  # an official tree
        return [(own, inside if inside.exists() or inside.is_symlink() else path)]
    trees = [file for file in source.files if any(_matching(path, file))]
    if trees:
        return [(trees[0], path)]
    raise DataError(f"{path}: holds none of {', '.join(by_name)}, and nothing of the tree that they unpack to")


def _own(name: str, source: Source) -> File | None:
    """For videos that somebody packed or unpacked in another way than the set's distributors."""
    if source.videos is None:
        return None
    return File(name=name, into=source.videos.folder, members=VIDEOS, keep="name", at_most_gb=1000)


def copy_folder(folder: Path, target: Path, file: File, report: Report) -> list[str]:
    """Copy what of a folder matches a file's members, as if it were that archive; returns paths below `target`.

    Links to files are followed: it is the user's own folder. Raises DataError for a link that leads nowhere, for two
    files of one name, and when nothing matches.
    """
    if folder.is_symlink() and not folder.exists():
        raise DataError(f"{folder}: the link leads nowhere (to {folder.readlink()})")
    placed: dict[str, str] = {}
    for name in _matching(folder, file):
        path = name.rpartition("/")[2] if file.keep == "name" else name
        if path in placed:
            raise DataError(f"{folder}: {placed[path]!r} and {name!r} would both become {path!r}")
        placed[path] = name
        if not (folder / name).exists():
            raise DataError(f"{folder / name}: the link leads nowhere (to {(folder / name).readlink()})")
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / path)
        report(len(placed), None)
    if not placed:
        raise DataError(f"{folder}: holds no {' or '.join(file.members[:4])}")
    return sorted(placed)


def _matching(folder: Path, file: File) -> Iterator[str]:
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link into itself
            folders.clear()
            continue
        seen.add(real)
        inside = {name: (Path(here) / name).relative_to(folder).as_posix() for name in (*folders, *names)}
        kept = {name for name, path in inside.items() if not _like(path, file.without)}
        folders[:] = sorted(kept.intersection(folders))
        yield from (inside[name] for name in sorted(kept.intersection(names)) if _like(inside[name], file.members))


def _like(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
