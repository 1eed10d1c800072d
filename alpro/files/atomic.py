"""Writing so that a kill never leaves a half file: aside, flushed, renamed into place.

What is aside is called `.NAME.HOST-PIDS-PID.xxxxxxxx` (PIDS: the kernel's number of what PID is counted in, a container or the
host), so that the next who writes beside it can tell that its writer is dead, and remove it: in a folder that a stage depends
on it would count as a change.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any


def atomic_write(path: str | Path, content: bytes | str) -> None:
    """Write a file as a whole or not at all; its folder is made. Raises OSError when the disk refuses."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    _sweep_once(path.parent.absolute())
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)  # mkstemp's 0600 would keep a colleague or a container from reading it
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


@contextmanager
def new_dir(path: str | Path) -> Iterator[Path]:
    """A new directory that stands at `path`, replacing what stood there, once the block ended well; else nothing changed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
    os.chmod(aside, 0o755)
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _fsync(file)
        _fsync(aside)
        if path.exists():
            old = aside.with_name(aside.name + ".old")
            os.replace(path, old)
            os.replace(aside, path)
            shutil.rmtree(old)
        else:
            os.replace(aside, path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def save_tensors(tensors: dict[str, Any], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Raises OSError when the disk refuses, which the library reports as an error of its own."""
    import safetensors.torch

    try:
        safetensors.torch.save_file(tensors, path, metadata=metadata)
    except safetensors.SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from None


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prefix(path: Path) -> str:
    return f".{path.name}.{_here()}-{os.getpid()}."


@cache
def _here() -> str:
    """Where a process is known by its number: this host and, on Linux, this container."""
    numbers = Path("/proc/self/ns/pid")
    return f"{os.uname().nodename}-{numbers.stat().st_ino if numbers.exists() else 0}"


@cache
def _sweep_once(folder: Path) -> None:
    """Once a process: a folder may hold millions of files."""
    _sweep(folder)


def _sweep(folder: Path) -> None:
    """Remove what dead processes left aside; what stood in the place of a new directory is put back."""
    ours = re.compile(rf"\.(?P<name>.+)\.{re.escape(_here())}-(?P<pid>\d+)\.[a-z0-9_]{{8}}(?P<old>\.old)?")
    with os.scandir(folder) as entries:
        left = [(Path(entry.path), found) for entry in entries if (found := ours.fullmatch(entry.name))]
    for aside, found in left:
        if _lives(int(found["pid"])):
            continue
        with suppress(OSError):  # another process may do the same, or it is another user's: no reason to write nothing
            if found["old"] and not (place := folder / found["name"]).exists():
                os.replace(aside, place)
            elif aside.is_dir():
                shutil.rmtree(aside)
            else:
                aside.unlink()


def _lives(pid: int) -> bool:
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
