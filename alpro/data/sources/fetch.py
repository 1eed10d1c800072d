"""`alpro data fetch`: a set's files, downloaded or given, checked and laid out as the official tree.

Everything gathers in data/.fetch/SET; the tree changes once a file is whole and checked. What no publisher gave a
checksum for is hashed and recorded, so that the next fetch, or a colleague's, is checked against the first.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alpro.data.sources import layout
from alpro.data.sources.archives import ARCHIVES, is_archive, unpack
from alpro.data.sources.download import Expected, Unavailable, download, mismatch
from alpro.data.sources.given import copy_folder, find
from alpro.data.sources.registry import File, Source, source
from alpro.errors import DataError
from alpro.files.locks import take_lock
from alpro.terminal.progress import reporting

Say = Callable[[str], None]


def fetch(name: str, root: str | Path = ".", given: Sequence[Path] = (), keep: bool = False, say: Say = print) -> list[str]:
    """Bring a set into the tree below `root`; returns the folders that hold it now, as DVC should take them.

    `given` are files and folders that the user has; without them the registry's addresses are tried. `keep` leaves the
    downloaded archives in data/.fetch. Raises DataError that names what could not be had and what to do; what could
    be had is laid out by then.
    """
    entry, root = source(name), Path(root)
    say(f"{name}: {entry.title}")
    say(f"  licence: {entry.licence}")
    _check_link(entry, root, say)
    folders: list[str] = []
    work = root / "data" / ".fetch" / name
    work.mkdir(parents=True, exist_ok=True)
    with take_lock(work / "lock", "a fetch of this set", DataError):
        files = [pair for path in given for pair in find(path, entry)]
        for file, path in files:
            folders += _take(name, file, path, root, work, say)
        absent = _rest(name, entry, [file.name for file, _ in files], root, work, keep, folders, say)
    _count(entry, root, say)
    for other in entry.needs:
        say(f"  needs {other} too: alpro data fetch {other}")
    if absent:
        remedy = f"get it by hand from {entry.page} and run `alpro data fetch {name} --from FILE_OR_FOLDER`"
        raise DataError("\n".join([f"{name}: could not be had:", *absent, f"  what to do: {remedy}", *_noted(entry)]))
    return sorted(set(folders))


def show(root: str | Path = ".") -> str:
    """All sets, and what of each is there."""
    from alpro.data.sources.registry import registry

    lines = []
    for name, entry in registry().items():
        there = [file for file, e in layout.read_receipt(Path(root), name).items() if layout.is_there(Path(root), e)]
        lines.append(f"{name:12} {entry.title}{'; fetched: ' + ', '.join(there) if there else ''}")
        lines.extend([f"{'':12} {entry.extent}"] if entry.extent else [])
        lines.append(f"{'':12} licence: {entry.licence}")
    return "\n".join(lines)


def _rest(
    name: str, entry: Source, had: list[str], root: Path, work: Path, keep: bool, folders: list[str], say: Say
) -> list[str]:
    """Get what was not given, one way after the other; a line for each file that no way gave."""
    ways = [way for way in entry.ways if any(file.name in had for file in way)] or list(entry.ways)
    if had and not any(file.name in had for way in entry.ways for file in way):
        return []  # the user's own packing stands for all of it
    absent: list[str] = []
    for way in ways:
        wanted = [file for file in way if file.name not in had]
        failed = []
        for file in wanted:
            try:
                folders += _get(name, file, root, work, keep, say)
            except Unavailable as error:
                failed.append(f"  {file.name}: {error}")
                say(failed[-1])
        if not failed:
            return []
        absent += failed
    return absent


def _get(name: str, file: File, root: Path, work: Path, keep: bool, say: Say) -> list[str]:
    """Download one file and lay it out; returns what DVC should take. Raises Unavailable when no address gives it."""
    recorded = layout.read_receipt(root, name).get(file.name)
    if recorded and layout.is_there(root, recorded):
        say(f"  {file.name}: is there already")
        return layout.dvc_targets(recorded["placed"])
    waiting = work / file.name
    if not waiting.exists():
        _download(file, recorded, waiting, say)
    folder = _take(name, file, waiting, root, work, say, recorded)
    if not keep:
        waiting.unlink()
    return folder


def _download(file: File, recorded: dict[str, Any] | None, target: Path, say: Say) -> None:
    if not file.urls:
        raise Unavailable("no address is known that gives it to a program")
    expected = _expected(file, recorded)
    reasons = []
    for url in file.urls:
        say(f"  {file.name}: from {url}")
        try:
            with reporting(file.name, "bytes") as report:
                download(url, target, expected, report)
            return
        except Unavailable as error:
            reasons.append(str(error))
    raise Unavailable("; ".join(reasons))


def _take(
    name: str, file: File, path: Path, root: Path, work: Path, say: Say, recorded: dict[str, Any] | None = None
) -> list[str]:
    """Check a file or folder that is on disk, unpack it aside, lay it out, record it."""
    recorded = recorded or layout.read_receipt(root, name).get(file.name)
    if path.is_file() and (fault := mismatch(path, _expected(file, recorded))):
        raise DataError(f"{path}: not the file that is published: {fault}; if you trust it, unpack it and give the folder")
    aside = work / "unpacked"
    shutil.rmtree(aside, ignore_errors=True)
    into = aside / file.into
    into.mkdir(parents=True)
    with reporting(f"{file.name}: unpacking", "bytes" if path.is_file() else "files") as report:
        if path.is_dir() or (path.is_symlink() and not path.exists()):
            placed = copy_folder(path, into, file, report)
        elif file.members and (is_archive(path) or path.suffix in ARCHIVES):
            placed = unpack(path, into, file.members, file.keep, int(file.at_most_gb * 1e9), report)
        else:
            placed = [file.rename or file.name]
            shutil.copyfile(path, into / placed[0])
    sizes = {os.path.normpath(f"{file.into}/{name}"): (into / name).stat().st_size for name in placed}
    layout.lay_out(aside, root)
    shutil.rmtree(aside, ignore_errors=True)
    say(f"  {file.name}: {_verdict(name, file, path, recorded)}; {len(placed)} files in {file.into}")
    layout.write_receipt(root, name, {file.name: {"placed": sizes, **_hashes(path)}})
    return layout.dvc_targets(sizes)


def _expected(file: File, recorded: dict[str, Any] | None) -> Expected:
    published = file.md5 or file.sha256
    return Expected(file.size, file.md5, file.sha256 or (None if published else (recorded or {}).get("sha256")))


def _verdict(name: str, file: File, path: Path, recorded: dict[str, Any] | None) -> str:
    if path.is_dir():
        return "a folder, taken as it is"
    if file.md5 or file.sha256:
        return "verified by its published checksum"
    where = layout.receipt_path(Path(), name)
    if recorded and recorded.get("sha256"):
        return f"verified by the sha256 recorded in {where}"
    return f"not verified, as no checksum is published; its sha256 is recorded in {where}"


def _hashes(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return {}
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _count(entry: Source, root: Path, say: Say) -> None:
    """How many of a set's videos are there."""
    if entry.videos is None or not (root / entry.videos.folder).is_dir():
        return
    from alpro.data.media.extensions import VIDEO_EXTENSIONS

    names = [name for name in os.listdir(root / entry.videos.folder) if name.lower().endswith((*VIDEO_EXTENSIONS, "."))]
    known = f"; known to be missing: {', '.join(entry.known_missing)}" if entry.known_missing else ""
    say(f"  {len(names):,} of {entry.videos.number:,} videos are in {entry.videos.folder}{known}")


def _check_link(entry: Source, root: Path, say: Say) -> None:
    if entry.link is None:
        return
    link = root / entry.link.path
    if link.is_symlink() and not link.exists():
        raise DataError(
            f"{link}: the link leads nowhere (to {link.readlink()}); it is not needed, as params.yaml names "
            f"{entry.link.to}: remove it, or make it anew with `ln -s ../msrvtt_ret/videos {entry.link.path}`"
        )
    if link.is_symlink():
        say(f"  {link}: a link to {link.readlink()}, accepted (not needed: params.yaml names {entry.link.to})")
    elif link.exists():
        say(f"  {link}: a second copy of the videos; not needed, as params.yaml names {entry.link.to}")


def _noted(entry: Source) -> list[str]:
    return [f"  note: {entry.note}"] if entry.note else []
