"""Locks between processes with the standard library alone: a file that one process at a time holds.

The tools run before anything is installed (`python -E -S`), so they cannot use alpro/files/locks.py, which needs the filelock
package. Both lock with flock(2) and therefore exclude each other: `make repro` takes `.make/repro.lock` here, flows there.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

WAIT_S = 0.2  # between two attempts to get a lock


class LockHeld(Exception):
    """Another process holds the lock: its number (0 if unknown) and since when."""

    def __init__(self, pid: int, since: str) -> None:
        super().__init__(f"process {pid or 'unknown'}, since {since or 'just now'}")
        self.pid = pid


def acquire(path: Path) -> IO[str]:
    """Lock a file and return it open. Closing it frees the lock, and so does the end of the process; children don't get it.

    Raises LockHeld if another process has the lock.
    """
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid, _, since = file.read().partition(" ")
            file.close()
            raise LockHeld(int(pid) if pid.isdigit() else 0, since.strip()) from None
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # its last holder removed the file between our two calls: lock the new one


def acquire_or_wait(path: Path, task: str, check: Callable[[], object] = lambda: None) -> IO[str]:
    """Lock a file, write this process into it and return it open. If another process has the lock, print that and wait.

    While it waits, it calls `check` repeatedly; an exception of `check` ends the wait.
    """
    reported = False
    while True:
        try:
            file = acquire(path)
        except LockHeld as held:
            if not reported:
                print(f"setup: another process is {task} ({held}); waiting for it", flush=True)
                reported = True
            check()
            time.sleep(WAIT_S)
        else:
            write_holder(file)
            return file


def write_holder(file: IO[str]) -> None:
    """Write this process and the time into a locked file, for processes that are refused."""
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()} {time.strftime('%Y-%m-%d %H:%M:%S')}")
    file.flush()
