"""`alpro data fetch`: downloads a set, or takes local files of it, verifies them and lays them out as the official tree.

Everything is prepared in data/.fetch/SET; the tree changes only after a file is complete and verified. A file without a
published checksum is hashed, and the hash is recorded, so that later fetches are checked against the first one.
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
from alpro.data.sources.local_files import copy_folder, match_local_files
from alpro.data.sources.registry import File, Source, source
from alpro.errors import DataError
from alpro.files.locks import take_lock
from alpro.terminal.progress import reporting

Say = Callable[[str], None]


def fetch(
    name: str, root: str | Path = ".", local_paths: Sequence[Path] = (), keep_archives: bool = False, say: Say = print
) -> list[str]:
    """Bring a set into the tree below `root`; return the folders that now hold it, as arguments for `dvc add`.

    `local_paths` are files and folders that the user already has; files that they lack are downloaded. With `keep_archives`
    the downloaded archives stay in data/.fetch. Raises DataError that lists the unavailable files and what to do; all other
    files are laid out by then.
    """
    entry, root = source(name), Path(root)
    say(f"{name}: {entry.title}")
    say(f"  licence: {entry.licence}")
    _check_link(entry, root, say)
    folders: list[str] = []
    work = root / "data" / ".fetch" / name
    work.mkdir(parents=True, exist_ok=True)
    with take_lock(work / "lock", "a fetch of this set", DataError):
        local_files = [match for path in local_paths for match in match_local_files(path, entry)]
        for file, path in local_files:
            folders += _install(name, file, path, root, work, say)
        installed = [file.name for file, _ in local_files]
        failures = _download_missing(name, entry, installed, root, work, keep_archives, folders, say)
    _report_count(entry, root, say)
    for other in entry.needs:
        say(f"  also needed: alpro data fetch {other}")
    if failures:
        remedy = f"  download them from {entry.page} yourself, then run `alpro data fetch {name} --from FILE_OR_FOLDER`"
        note = [f"  note: {entry.note}"] if entry.note else []
        raise DataError("\n".join([f"{name}: these files could not be fetched:", *failures, remedy, *note]))
    return sorted(set(folders))


def show(root: str | Path = ".") -> str:
    """Return a list of all sets, with the fetched files of each."""
    from alpro.data.sources.registry import registry

    lines = []
    for name, entry in registry().items():
        receipt = layout.read_receipt(Path(root), name)
        fetched = [file for file, record in receipt.items() if layout.is_complete(Path(root), record)]
        lines.append(f"{name:12} {entry.title}{'; fetched: ' + ', '.join(fetched) if fetched else ''}")
        lines.extend([f"{'':12} {entry.extent}"] if entry.extent else [])
        lines.append(f"{'':12} licence: {entry.licence}")
    return "\n".join(lines)


def _download_missing(
    name: str, entry: Source, installed: list[str], root: Path, work: Path, keep_archives: bool, folders: list[str], say: Say
) -> list[str]:
    """Download what is not installed, trying the set's alternatives in turn; return a line for each unavailable file."""
    begun = [files for files in entry.alternatives if any(file.name in installed for file in files)]
    if installed and not begun:
        return []  # the user's own packing counts as the complete set
    failures: list[str] = []
    for files in begun or entry.alternatives:
        failures_here = []
        for file in files:
            if file.name in installed:
                continue
            try:
                folders += _fetch_file(name, file, root, work, keep_archives, say)
            except Unavailable as error:
                failures_here.append(f"  {file.name}: {error}")
                say(failures_here[-1])
        if not failures_here:
            return []
        failures += failures_here
    return failures


def _fetch_file(name: str, file: File, root: Path, work: Path, keep_archive: bool, say: Say) -> list[str]:
    """Download and install one file; return the arguments for `dvc add`. Raises Unavailable if no address provides it."""
    record = layout.read_receipt(root, name).get(file.name)
    if record and layout.is_complete(root, record):
        say(f"  {file.name}: already fetched")
        return layout.dvc_targets(record["placed"])
    downloaded = work / file.name
    if not downloaded.exists():
        _try_addresses(file, record, downloaded, say)
    folders = _install(name, file, downloaded, root, work, say, record)
    if not keep_archive:
        downloaded.unlink()
    return folders


def _try_addresses(file: File, record: dict[str, Any] | None, target: Path, say: Say) -> None:
    """Download a file from the first of its addresses that provides it. Raises Unavailable if none does."""
    if not file.urls:
        raise Unavailable("has no address for automatic download")
    expected = _expected(file, record)
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


def _install(
    name: str, file: File, path: Path, root: Path, work: Path, say: Say, record: dict[str, Any] | None = None
) -> list[str]:
    """Verify a file or folder, unpack it in `work`, move it into the tree and record it; return arguments for `dvc add`."""
    record = record or layout.read_receipt(root, name).get(file.name)
    if path.is_file() and (fault := mismatch(path, _expected(file, record))):
        raise DataError(f"{path}: not the published file: {fault}; if you trust it, unpack it and pass the folder")
    staging = work / "unpacked"
    shutil.rmtree(staging, ignore_errors=True)
    into = staging / file.into
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
    layout.lay_out(staging, root)
    shutil.rmtree(staging, ignore_errors=True)
    say(f"  {file.name}: {_verification(name, file, path, record)}; {len(placed)} files in {file.into}")
    layout.write_receipt(root, name, {file.name: {"placed": sizes, **_hashes(path)}})
    return layout.dvc_targets(sizes)


def _expected(file: File, record: dict[str, Any] | None) -> Expected:
    published = file.md5 or file.sha256
    return Expected(file.size, file.md5, file.sha256 or (None if published else (record or {}).get("sha256")))


def _verification(name: str, file: File, path: Path, record: dict[str, Any] | None) -> str:
    """Say how an installed file was verified."""
    if path.is_dir():
        return "not verified, as it is a folder"
    if file.md5 or file.sha256:
        return "verified by its published checksum"
    receipt = layout.receipt_path(Path(), name)
    if record and record.get("sha256"):
        return f"verified by the sha256 recorded in {receipt}"
    return f"not verified, as no checksum is published; its sha256 is recorded in {receipt}"


def _hashes(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return {}
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _report_count(entry: Source, root: Path, say: Say) -> None:
    """Report how many of a set's videos are present."""
    if entry.videos is None or not (root / entry.videos.folder).is_dir():
        return
    from alpro.data.media.extensions import VIDEO_EXTENSIONS

    names = [name for name in os.listdir(root / entry.videos.folder) if name.lower().endswith((*VIDEO_EXTENSIONS, "."))]
    missing = f"; known to be missing: {', '.join(entry.known_missing)}" if entry.known_missing else ""
    say(f"  {len(names):,} of {entry.videos.number:,} videos are in {entry.videos.folder}{missing}")


def _check_link(entry: Source, root: Path, say: Say) -> None:
    """Report the set's optional link. Raises DataError if it is broken."""
    if entry.link is None:
        return
    link, target = root / entry.link.path, entry.link.to
    if link.is_symlink() and not link.exists():
        raise DataError(
            f"{link}: broken link (to {link.readlink()}); remove it, as params.yaml names {target} directly, "
            f"or repair it with `ln -s ../msrvtt_ret/videos {entry.link.path}`"
        )
    if link.is_symlink():
        say(f"  {link}: a link to {link.readlink()}; optional, as params.yaml names {target}")
    elif link.exists():
        say(f"  {link}: a second copy of the videos; not needed, as params.yaml names {target}")
