"""Project-wide run lock: a second run waits or is refused, and is told which run holds the lock."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

RETRY_S = 1.0


class Busy(Exception):
    """Another run holds the lock."""


@contextmanager
def only_run(home: Path, name: str, wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold the project's run lock. The system releases it when this process ends, also after SIGKILL.

    If another run holds it, raise Busy; with `wait`, call that function with a message and wait instead.
    """
    path = home / ".prefect" / "run.lock"
    path.parent.mkdir(exist_ok=True)
    message = ""
    with path.open("a+") as file:
        while True:
            try:
                _take(file.fileno(), path)
                break
            except Busy as busy:
                if wait is None:
                    raise
                if str(busy) != message:
                    message = str(busy)
                    wait(f"waiting: {message}")
                time.sleep(RETRY_S)
        file.seek(0)
        file.truncate()
        json.dump({"run": name, "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
        file.flush()
        yield


@contextmanager
def not_beside_make(root: Path) -> Iterator[None]:
    """Hold the lock of `make repro` on this checkout (tools/under_lock.py). Raises Busy if it is running."""
    path = root / ".make" / "repro.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid, _, since = file.read().partition(" ")
            raise Busy(f"`make repro` is running in {root} (process {pid}, since {since}); wait for it, or stop it") from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()} {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield


def _take(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            holder = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            holder = {"run": "another run", "pid": "unknown", "since": "just now"}
        raise Busy(
            f"the run {holder['run']!r} is running on this project (process {holder['pid']}, since {holder['since']}); "
            "wait for it, or cancel it"
        ) from None
