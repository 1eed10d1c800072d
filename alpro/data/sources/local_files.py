"""Files that the user already has, passed with --from: an archive, a file, a folder of videos, or a whole official tree."""

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
from alpro.terminal.progress import ProgressCallback

# "*.": some names of DiDeMo end in a dot
VIDEO_PATTERNS = (*(f"*{end}" for extension in VIDEO_EXTENSIONS for end in (extension, extension.upper())), "*.")


def match_local_files(path: Path, source: Source) -> list[tuple[File, Path]]:
    """Find the files of a set at `path`; return (registry entry, path) pairs.

    A folder or archive of videos that the registry does not list gets an entry of its own.
    Raises DataError if the path holds nothing of the set.
    """
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path}: broken link (to {path.readlink()})")
    if not path.exists():
        raise DataError(f"{path}: not found")
    by_name = {file.name: file for file in source.files}
    if path.is_file():
        if path.name in by_name:
            return [(by_name[path.name], path)]
        repacked = _entry_for_own_packing(path.name, source)
        if repacked and (is_archive(path) or _matches_any(path.name, VIDEO_PATTERNS)):
            return [(repacked, path)]
        raise DataError(f"{path}: neither one of {', '.join(by_name) or 'no files'} nor an archive of videos")
    archives = [(file, path / file.name) for file in source.files if (path / file.name).is_file()]
    if archives:
        return archives
    tables = [(file, path / file.into / file.rename) for file in source.files if file.rename]  # as in the official tree
    if present := [(file, table) for file, table in tables if table.is_file()]:
        return present
    if repacked := _entry_for_own_packing(path.name, source):
        inside = path / repacked.into  # an official tree
        return [(repacked, inside if inside.exists() or inside.is_symlink() else path)]
    trees = [file for file in source.files if any(_matching_paths(path, file))]
    if trees:
        return [(trees[0], path)]
    raise DataError(f"{path}: contains neither the set's files ({', '.join(by_name)}) nor their unpacked contents")


def _entry_for_own_packing(name: str, source: Source) -> File | None:
    """Return a registry entry for videos packed differently from the published archives, or None if the set has no videos."""
    if source.videos is None:
        return None
    return File(name=name, into=source.videos.folder, members=VIDEO_PATTERNS, keep="name", at_most_gb=1000)


def copy_folder(folder: Path, target: Path, file: File, report: ProgressCallback) -> list[str]:
    """Copy the files of a folder that match an archive's members; return their paths below `target`, sorted.

    Links to files are followed, as the folder is the user's own. Raises DataError for a broken link, for two files that
    would get the same name, and if nothing matches.
    """
    if folder.is_symlink() and not folder.exists():
        raise DataError(f"{folder}: broken link (to {folder.readlink()})")
    copied: dict[str, str] = {}  # path below `target` -> path below `folder`
    for name in _matching_paths(folder, file):
        path = name.rpartition("/")[2] if file.keep == "name" else name
        if path in copied:
            raise DataError(f"{folder}: {copied[path]!r} and {name!r} would both become {path!r}")
        copied[path] = name
        if not (folder / name).exists():
            raise DataError(f"{folder / name}: broken link (to {(folder / name).readlink()})")
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / path)
        report(len(copied), None)
    if not copied:
        raise DataError(f"{folder}: contains nothing that matches {' or '.join(file.members[:4])}")
    return sorted(copied)


def _matching_paths(folder: Path, file: File) -> Iterator[str]:
    """Yield the paths below a folder that match the file's `members` and are not under `exclude`."""
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # already visited through another link
            folders.clear()
            continue
        seen.add(real)
        paths = {name: (Path(here) / name).relative_to(folder).as_posix() for name in (*folders, *names)}
        included = {name for name, path in paths.items() if not _matches_any(path, file.exclude)}
        folders[:] = sorted(included.intersection(folders))
        yield from (paths[name] for name in sorted(included.intersection(names)) if _matches_any(paths[name], file.members))


def _matches_any(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
