"""Locks between processes with the standard library alone: a file that one process at a time holds.

The tools run before anything is installed (`python -E -S`), so they cannot use alpro/files/locks.py, which needs the filelock
package. Both lock with flock(2) and therefore exclude each other: `make repro` takes `.make/repro.lock` here, flows there.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO


class LockHeld(Exception):
    """Another process holds the lock: its number (0 if unknown) and since when."""

    def __init__(self, pid: int, since: str) -> None:
        super().__init__(f"process {pid or 'unknown'}, since {since or 'just now'}")
        self.pid = pid


def acquire(path: Path, wait: bool = False) -> IO[str]:
    """Lock a file and return it open. Closing it frees the lock, and so does the end of the process; children don't get it.

    Raises LockHeld if another process has the lock, unless `wait` is set.
    """
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            pid, _, since = file.read().partition(" ")
            file.close()
            raise LockHeld(int(pid) if pid.isdigit() else 0, since.strip()) from None
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # its last holder removed the file between our two calls: lock the new one


def acquire_or_wait(path: Path, task: str) -> IO[str]:
    """Lock a file, write this process into it and return it open. If another process has the lock, print that and wait."""
    try:
        file = acquire(path)
    except LockHeld as held:
        print(f"setup: another process is {task} ({held}); waiting for it", flush=True)
        file = acquire(path, wait=True)
    write_holder(file)
    return file


def write_holder(file: IO[str]) -> None:
    """Write this process and the time into a locked file, for processes that are refused."""
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()} {time.strftime('%Y-%m-%d %H:%M:%S')}")
    file.flush()
