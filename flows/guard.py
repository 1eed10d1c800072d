"""One run at a time: a second one is refused, or waits, with the name of the one that is at work."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

AGAIN_S = 1.0
WORKER_CHECK_S = 1.0


class Busy(Exception):
    """Another run is at work."""


@contextmanager
def only_run(home: Path, name: str, wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold the project's run lock; the system frees it with its holder, however that ends.

    Where another run has it: raises Busy, or, with `wait`, tells that function whom it waits for until it is free.
    """
    path = home / ".prefect" / "run.lock"
    path.parent.mkdir(exist_ok=True)
    told = ""
    with path.open("a+") as file:
        while True:
            try:
                _take(file.fileno(), path)
                break
            except Busy as busy:
                if wait is None:
                    raise
                if str(busy) != told:
                    told = str(busy)
                    wait(f"waiting: {told}")
                time.sleep(AGAIN_S)
        file.seek(0)
        file.truncate()
        json.dump({"run": name, "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
        file.flush()
        yield


@contextmanager
def not_beside_make(root: Path) -> Iterator[None]:
    """Keep `make repro` out of this checkout, and stay out of its way (the lock of tools/under_lock.py). Raises Busy."""
    path = root / ".make" / "repro.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid, _, since = file.read().partition(" ")
            raise Busy(f"`make repro` is at work in {root} (process {pid}, since {since}); wait for it, or stop it") from None
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
            f"the run {holder['run']!r} is at work on this project (process {holder['pid']}, since {holder['since']}); "
            "wait for it, or cancel it"
        ) from None


def end_with_worker() -> None:
    """Watch the parent, where a worker started this process; a SIGTERM then ends the run, which Prefect shows as Crashed."""
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        threading.Thread(target=_watch_worker, args=(os.getppid(),), daemon=True).start()


def _watch_worker(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WORKER_CHECK_S)
    os.kill(os.getpid(), signal.SIGTERM)
