"""Project-wide run lock: many runs with worktrees of their own, or one run that must be alone. Others wait or are refused.

A run must be alone if it works in the checkout, or if it has its own Prefect server: it cannot see the slots by which the runs
of a shared server wait for each other (flows/slots.py).
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from alpro.files.locks import Lock, LockHeld, holder_of

RETRY_S = 1.0
ENTRY_S = 60.0  # to look at the other runs' locks, which takes milliseconds
UNKNOWN = {"run": "another run", "pid": "unknown", "host": "this machine", "since": "just now"}


class Busy(Exception):
    """Another run holds the lock."""


@contextmanager
def only_run(home: Path, name: str, wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold the project's run lock alone. The system releases it when this process ends, also after SIGKILL.

    If another run holds it, raise Busy; with `wait`, call that function with a message and wait instead.
    """
    with _take(home, name, wait, alone=True):
        yield


@contextmanager
def shared_run(home: Path, name: str, wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold the project's run lock beside other runs that share it. A run that holds it alone keeps all others out."""
    with _take(home, name, wait, alone=False):
        yield


def _take(home: Path, name: str, wait: Callable[[str], object] | None, alone: bool) -> Lock:
    message = ""
    while True:
        try:
            return _try(home / ".prefect", name, alone)
        except Busy as busy:
            if wait is None:
                raise
            if str(busy) != message:
                message = str(busy)
                wait(f"waiting: {message}")
            time.sleep(RETRY_S)


def _try(folder: Path, name: str, alone: bool) -> Lock:
    """Take the lock: run.lock alone, or a file of this run's own in `runs`. Raises Busy."""
    runs, single = folder / "runs", folder / "run.lock"
    runs.mkdir(parents=True, exist_ok=True)
    path = single if alone else runs / f"{secrets.token_hex(8)}.lock"
    run = {"run": name, "pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
    try:
        with Lock(folder / "entry.lock", wait_s=ENTRY_S):  # between the look at the others' locks and the taking of the own
            sharing = [holder_of(file) for file in sorted(runs.glob("*.lock"))]  # it removes those of ended runs
            holders = sharing if alone else [holder_of(single)]
            if holders := [holder for holder in holders if holder is not None]:
                raise _busy(holders)
            return Lock(path, json.dumps(run))
    except LockHeld as held:
        raise _busy([held.holder]) from None


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


def _busy(holders: Sequence[str]) -> Busy:
    runs = [f"{run['run']!r} (process {run['pid']} on {run['host']}, since {run['since']})" for run in map(_parse, holders)]
    if len(runs) == 1:
        return Busy(f"the run {runs[0]} is working on this project; wait for it, or cancel it")
    return Busy(f"the runs {', '.join(runs)} are working on this project; wait for them, or cancel them")


def _parse(holder: str) -> dict[str, str]:
    try:
        return {**UNKNOWN, **json.loads(holder)}
    except (ValueError, TypeError):  # the holder has just taken it, or just ended
        return UNKNOWN


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
