"""Locks between processes: a file that one process at a time holds."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path

from filelock import FileLock, Timeout

from alpro.errors import AlproError

RUNNING = " is already running ("  # in the message of `take_lock`
_held: set[Lock] = set()  # filelock frees the lock of an object that is garbage collected: keep them alive


class LockHeld(Exception):
    """Another process holds the lock; `holder` is the text that it wrote into the lock file."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


class Lock:
    """A lock file, held from the construction until `release`, the end of a `with` block or the end of the process.

    Built on filelock (flock), which closes the file in forked and executed children, so that no child keeps the lock. It
    does not record who holds the lock, hence this class. The holder is written into the file; flock survives that, while a
    POSIX record lock would be lost as soon as the process closes the file a second time. `tools/file_lock.py` is the same
    lock for scripts that run before anything is installed.
    """

    def __init__(self, path: Path, holder: str = "", wait_s: float = 0.0) -> None:
        """Take the lock. Raises LockHeld if another process keeps it for more than `wait_s` seconds.

        `holder` is shown to processes that are refused; by default it names this process and the time.
        """
        # A soft lock, filelock's fallback without flock, would outlive a killed process.
        self._lock = FileLock(path, thread_local=False, fallback_to_soft=False)
        self._path = path
        while True:
            try:
                self._lock.acquire(timeout=wait_s)
                break
            except Timeout:
                try:
                    raise LockHeld(path.read_text(encoding="utf-8").strip() or "another process") from None
                except FileNotFoundError:
                    continue  # its last holder removed the file while we tried to lock it
        path.write_text(f"{holder or this_process()}\n", encoding="utf-8")
        _held.add(self)

    def release(self) -> None:
        """Free the lock and remove its file. A second call does nothing."""
        if self._lock.is_locked:
            self._path.unlink(missing_ok=True)  # before the lock is free: afterwards the file may be another holder's
            self._lock.release()
            _held.discard(self)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def take_lock(path: Path, task: str, error: type[AlproError], wait_s: float = 0.0) -> Lock:
    """Take the lock of a task; if another process holds it, raise `error` with a message that names the holder."""
    try:
        return Lock(path, wait_s=wait_s)
    except LockHeld as held:
        raise error(f"{path}: {task}{RUNNING}{held.holder}); wait for it, or stop it first") from None


def holder_of(path: Path) -> str | None:
    """Return what the holder of a lock wrote into its file, or None if nobody holds it; then the file is removed."""
    if not path.exists():
        return None
    try:
        Lock(path).release()
    except LockHeld as held:
        return held.holder
    return None


def lock_in(message: str) -> Path | None:
    """Return the lock file that a message of `take_lock` names, or None if it is another message."""
    found = re.search(rf"([^:\s][^:]*): [^:]*{re.escape(RUNNING)}", message)
    return Path(found[1]) if found else None


def this_process() -> str:
    """Describe this process for processes that wait for the lock: number, host and time."""
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
