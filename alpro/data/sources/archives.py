"""Unpacks archives that others made, believing nothing that stands in them.

A member is taken only when it is a plain file whose path stays inside; one with `..`, an absolute path, a link or a
device spoils the whole archive, and nothing of it is laid out. What is written is bounded by what the archive
declares, by the registry's limit, and by the room on the disk.
"""

from __future__ import annotations

import fnmatch
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from alpro.data.sources.download import CHUNK, ROOM_LEFT
from alpro.errors import DataError
from alpro.terminal.progress import Report

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz")
_JUNK = re.compile(r"(^|/)(__MACOSX|\.DS_Store|\._[^/]*|Thumbs\.db)(/|$)")


def unpack(
    archive: str | Path,
    folder: str | Path,
    members: tuple[str, ...] = ("*",),
    keep: str = "path",
    at_most: int | None = None,
    report: Report = lambda done, total: None,
) -> list[str]:
    """Unpack the members that match a pattern into a folder; returns their paths below it, sorted.

    `keep` "name" drops the folders of a member's path. `report` is called with bytes written.
    Raises DataError for an archive that is none, is damaged, unpacks to more than `at_most` bytes, holds a member that
    may not be written, or holds nothing that matches. Its files may be in `folder` then: hand in one to throw away.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    taken: dict[str, str] = {}
    seen: list[str] = []
    written = 0
    with _whole(archive):
        for name, size, content in _contents(archive):
            seen.append(name)
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in members):
                continue
            path = PurePosixPath(name).name if keep == "name" else name
            if path.casefold() in taken:
                raise DataError(f"{archive}: {taken[path.casefold()]!r} and {name!r} would both become {path!r}")
            taken[path.casefold()] = name
            _check_room(archive, written + size, size, at_most, folder)
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("xb") as file:
                _copy(archive, name, content, file, size)
            written += size
            report(written, None)
    if not taken:
        some = ", ".join(sorted(seen)[:5]) or "nothing"
        raise DataError(f"{archive}: holds nothing like {' or '.join(members)} (it holds {some})")
    return sorted(PurePosixPath(name).name if keep == "name" else name for name in taken.values())


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar, by its content."""
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def _contents(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """(path, bytes, content) of each plain file; raises DataError at the first member that may not be written."""
    return _zip(archive) if zipfile.is_zipfile(archive) else _tar(archive)


@contextmanager
def _whole(archive: Path) -> Iterator[None]:
    """What the readers raise for damage, or for a compression that zipfile does not know (NotImplementedError), in one line."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        with archive.open("rb") as file:
            page = file.read(200).lstrip().startswith(b"<")
        hint = "; it is a web page, perhaps one that asks to log in or to wait" if page else ""
        raise DataError(f"{archive}: no whole zip or tar ({_one_line(error)}){hint}") from None


def _zip(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            _check_name(archive, member.filename)
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{archive}: {member.filename!r} is a link or a device; nothing was unpacked")
            if member.flag_bits & 1:
                raise DataError(f"{archive}: {member.filename!r} is encrypted; unpack it yourself and give the folder")
            if not member.is_dir() and not _JUNK.search(member.filename):
                yield member.filename, member.file_size, file.open(member)


def _tar(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with tarfile.open(archive, "r|*") as file:  # a stream: a compressed one is read once
        for member in file:
            _check_name(archive, member.name)
            if member.isdir():
                continue
            if not member.isreg():
                kind = "link" if member.issym() or member.islnk() else "device"
                raise DataError(f"{archive}: {member.name!r} is a {kind}; nothing was unpacked")
            if _JUNK.search(member.name):
                continue
            content = file.extractfile(member)
            assert content is not None  # it is a plain file
            yield member.name.removeprefix("./"), member.size, content


def _check_name(archive: Path, name: str) -> None:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name) or not name:
        raise DataError(f"{archive}: {name!r} leads out of its folder; nothing was unpacked")


def _check_room(archive: Path, total: int, size: int, at_most: int | None, folder: Path) -> None:
    if at_most is not None and total > at_most:
        raise DataError(f"{archive}: unpacks to more than {at_most / 1e9:g} GB; nothing was unpacked")
    free = shutil.disk_usage(folder).free
    if size > free - ROOM_LEFT:
        raise DataError(f"{folder}: no room to unpack {archive.name} ({free / 1e9:.1f} GB free); make room and run it again")


def _copy(archive: Path, name: str, content: IO[bytes], file: IO[bytes], size: int) -> None:
    """As many bytes as the archive declares, not one more or less."""
    left = size
    for chunk in iter(lambda: content.read(CHUNK), b""):
        left -= len(chunk)
        if left < 0:
            break
        file.write(chunk)
    if left:
        raise DataError(f"{archive}: {name!r} is not as long as declared ({size} bytes)")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
