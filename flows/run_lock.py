"""Project-wide run lock: a second run waits or is refused, and is shown which run holds the lock."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alpro.files.locks import Lock, LockHeld

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
    while True:
        try:
            lock = Lock(path, json.dumps({"run": name, "pid": os.getpid(), "since": _now()}))
            break
        except LockHeld as held:
            busy = _busy(held.holder)
            if wait is None:
                raise busy from None
            if str(busy) != message:
                message = str(busy)
                wait(f"waiting: {message}")
            time.sleep(RETRY_S)
    with lock:
        yield


@contextmanager
def not_beside_make(root: Path) -> Iterator[None]:
    """Hold the lock of `make repro` on this checkout (tools/under_lock.py). Raises Busy if it is running."""
    path = root / ".make" / "repro.lock"
    path.parent.mkdir(exist_ok=True)
    try:
        lock = Lock(path, f"{os.getpid()} {_now()}")  # the format of tools/file_lock.py
    except LockHeld as held:
        pid, _, since = held.holder.partition(" ")
        raise Busy(f"`make repro` is running in {root} (process {pid}, since {since}); wait for it, or stop it") from None
    with lock:
        yield


def _busy(holder: str) -> Busy:
    try:
        run = json.loads(holder)
    except ValueError:
        run = {"run": "another run", "pid": "unknown", "since": "just now"}
    return Busy(
        f"the run {run['run']!r} is running on this project (process {run['pid']}, since {run['since']}); "
        "wait for it, or cancel it"
    )


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
