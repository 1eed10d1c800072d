"""Safe unpacking of downloaded zip and tar files.

Only plain files with a path inside the target folder are unpacked. A member with `..`, an absolute path, a link or a device
makes the whole archive invalid. The unpacked size is limited by the archive's own declaration, by the registry and by the
free disk space.
"""

from __future__ import annotations

import errno
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
from alpro.terminal.progress import ProgressCallback

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz")
_JUNK = re.compile(r"(^|/)(__MACOSX|\.DS_Store|\._[^/]*|Thumbs\.db)(/|$)")


def unpack(
    archive: str | Path,
    folder: str | Path,
    members: tuple[str, ...] = ("*",),
    keep: str = "path",
    at_most: int | None = None,
    report: ProgressCallback = lambda done, total: None,
) -> list[str]:
    """Unpack the members that match a pattern into a folder; return their paths below it, sorted.

    `keep="name"` drops the folders of a member's path. `report` is called with the number of bytes written.
    Raises DataError if the file is not an archive, is damaged, unpacks to more than `at_most` bytes, has an unsafe member,
    or has no matching member. Some files may be in `folder` by then: pass a temporary folder.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unpacked: dict[str, str] = {}  # target path, case-folded -> member
    seen: list[str] = []
    written = 0
    with _damage_as_data_error(archive):
        for name, size, content in _plain_files(archive):
            seen.append(name)
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in members):
                continue
            path = PurePosixPath(name).name if keep == "name" else name
            if path.casefold() in unpacked:
                raise DataError(f"{archive}: {unpacked[path.casefold()]!r} and {name!r} would both become {path!r}")
            unpacked[path.casefold()] = name
            _check_room(archive, written + size, size, at_most, folder)
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("xb") as file:
                _copy(archive, name, content, file, size)
            written += size
            report(written, None)
    if not unpacked:
        examples = ", ".join(sorted(seen)[:5]) or "nothing"
        raise DataError(f"{archive}: contains nothing that matches {' or '.join(members)} (it contains {examples})")
    return sorted(PurePosixPath(name).name if keep == "name" else name for name in unpacked.values())


def is_archive(path: Path) -> bool:
    """Return True if a file's content is a zip or a tar."""
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def _plain_files(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield path, size in bytes and content of each plain file. Raises DataError at the first unsafe member."""
    return _files_of_zip(archive) if zipfile.is_zipfile(archive) else _files_of_tar(archive)


@contextmanager
def _damage_as_data_error(archive: Path) -> Iterator[None]:
    """Turn what the readers raise for damage or for an unknown compression into a DataError."""
    try:
        yield
    # zipfile raises NotImplementedError for a compression that it does not know, UnicodeDecodeError for a damaged name
    except (
        zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, UnicodeDecodeError,
    ) as error:  # fmt: skip
        raise _damaged(archive, error) from None
    except OSError as error:
        if error.errno is not None:  # the disk; bz2 raises a plain OSError for damage
            raise
        raise _damaged(archive, error) from None


def _damaged(archive: Path, error: Exception) -> DataError:
    with archive.open("rb") as file:
        is_page = file.read(200).lstrip().startswith(b"<")
    hint = "; it is a web page, perhaps one that asks you to log in or to wait" if is_page else ""
    return DataError(f"{archive}: not a complete zip or tar ({_one_line(error)}){hint}")


def _files_of_zip(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            _check_name(archive, member.filename)
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{archive}: {member.filename!r} is a link or a device; nothing was unpacked")
            if member.flag_bits & 1:
                raise DataError(f"{archive}: {member.filename!r} is encrypted; unpack it yourself and pass the folder")
            if not member.is_dir() and not _JUNK.search(member.filename):
                yield member.filename, member.file_size, _open_member(file, member)


def _open_member(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    """Open a member. Raises BadZipFile if the archive's table of contents is damaged where it names the member's place."""
    try:
        return file.open(member)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a seek to before the beginning; any other is the disk's
            raise
        raise zipfile.BadZipFile(f"the place of {member.filename!r} is damaged") from None


def _files_of_tar(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with tarfile.open(archive, "r|*") as file:  # as a stream, so that a compressed archive is read once
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
    folders = name.split("/")
    if name.startswith("/") or ".." in folders or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name) or not name:
        raise DataError(f"{archive}: {name!r} leads out of its folder; nothing was unpacked")


def _check_room(archive: Path, total: int, size: int, at_most: int | None, folder: Path) -> None:
    if at_most is not None and total > at_most:
        raise DataError(f"{archive}: unpacks to more than {at_most / 1e9:g} GB; nothing was unpacked")
    free = shutil.disk_usage(folder).free
    if size > free - ROOM_LEFT:
        raise DataError(f"{folder}: no room to unpack {archive.name} ({free / 1e9:.1f} GB free); free some space and try again")


def _copy(archive: Path, name: str, content: IO[bytes], file: IO[bytes], size: int) -> None:
    """Copy a member. Raises DataError if it is longer or shorter than the archive declares."""
    left = size
    for chunk in iter(lambda: content.read(CHUNK), b""):
        left -= len(chunk)
        if left < 0:
            break
        file.write(chunk)
    if left:
        raise DataError(f"{archive}: {name!r} does not have its declared length ({size} bytes)")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
