"""Atomic writes: content goes to a temporary file, is flushed to disk, and is renamed into place.

Temporary files and folders are called `.NAME.HOST-PIDS-PID.xxxxxxxx` (PIDS: number of the PID namespace, which a container has
of its own), so the next writer can detect and remove leftovers of dead processes. Otherwise DVC would see them as a change
of the folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any


def atomic_write(path: str | Path, content: bytes | str) -> None:
    """Write a file completely or not at all; create its folder if needed. Raises OSError if the disk refuses."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    _sweep_once(path.parent.absolute())
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep a colleague or a container from reading it
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def replace_dir(path: str | Path) -> Iterator[Path]:
    """Yield a temporary directory that replaces `path` when the block ends, whatever `path` contains.

    Only for folders that no user writes, such as snapshots; outputs of commands use `alpro.files.outputs.new_dir`.
    """
    with new_temporary_dir(path) as temporary:
        yield temporary
        swap_dirs(temporary, Path(path), shutil.rmtree)


@contextmanager
def new_temporary_dir(path: str | Path) -> Iterator[Path]:
    """Yield a temporary directory beside `path`, removed when the block ends unless it was moved. Creates the parent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
    os.chmod(temporary, 0o755)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def swap_dirs(temporary: Path, path: Path, remove: Callable[[Path], object]) -> None:
    """Flush a temporary directory to disk and move it to `path`; a directory already there is moved away and removed."""
    for file in temporary.rglob("*"):
        if file.is_file():
            _fsync(file)
    _fsync(temporary)
    if path.exists():
        old = temporary.with_name(temporary.name + ".old")
        os.replace(path, old)
        os.replace(temporary, path)
        remove(old)
    else:
        os.replace(temporary, path)
    _fsync(path.parent)


def save_tensors(tensors: dict[str, Any], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Raises OSError if the disk refuses, instead of the library's own error."""
    import safetensors.torch

    try:
        safetensors.torch.save_file(tensors, path, metadata=metadata)
    except safetensors.SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from None


def sha256(path: str | Path) -> str:
    """Return the SHA-256 hex digest of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prefix(path: Path) -> str:
    return f".{path.name}.{_host_and_namespace()}-{os.getpid()}."


@cache
def _host_and_namespace() -> str:
    """Name this host and, on Linux, this PID namespace: a process number is unique only there."""
    namespace = Path("/proc/self/ns/pid")
    return f"{os.uname().nodename}-{namespace.stat().st_ino if namespace.exists() else 0}"


@cache
def _sweep_once(folder: Path) -> None:
    """Call `sweep` once per process and folder, as a folder may hold millions of files."""
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove temporary files of dead processes. A directory that was being replaced is put back."""
    pattern = re.compile(rf"\.(?P<name>.+)\.{re.escape(_host_and_namespace())}-(?P<pid>\d+)\.[a-z0-9_]{{8}}(?P<old>\.old)?")
    with os.scandir(folder) as entries:
        leftovers = [(Path(entry.path), match) for entry in entries if (match := pattern.fullmatch(entry.name))]
    for temporary, match in leftovers:
        if _is_alive(int(match["pid"])):
            continue
        with suppress(OSError):  # another process removes it too, or it belongs to another user: write anyway
            if match["old"] and not (original := folder / match["name"]).exists():
                os.replace(temporary, original)
            elif temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
