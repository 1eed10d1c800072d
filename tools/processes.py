"""Lists, inspects and stops processes through /proc (Linux), with the standard library alone.

psutil would do this, but `make setup` needs it before anything is installed: it runs in the system's Python, stops the
compilers that a killed build of Horovod has left (tools/build_horovod.py), and runs without site-packages (`python -S`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

PROC = Path("/proc")


def pids() -> list[int]:
    """Return the numbers of all processes, including zombies."""
    return sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the command's name (state, ppid, ...); empty if there is no such process."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Return True if the process is running; a zombie has ended, but its parent has not collected it."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def parent(pid: int) -> int:
    """Return the number of a process's parent; 0 if the process has ended."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def started(pid: int) -> float:
    """Return when a process started, in seconds since 1970 (to about a second); 0 if it has ended."""
    fields = _stat(pid)
    if not fields:
        return 0.0
    boot = next(float(line.split()[1]) for line in (PROC / "stat").read_text().splitlines() if line.startswith("btime"))
    return boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def command(pid: int) -> list[str]:
    """Return the command line of a process; empty if it cannot be read."""
    try:
        return [word for word in (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0") if word]
    except OSError:
        return []


def environment(pid: int) -> dict[str, str]:
    """Return the initial environment of a process; empty if it cannot be read (another user's process)."""
    try:
        entries = (PROC / str(pid) / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def descendants(pid: int) -> list[int]:
    """Return all running children, grandchildren and so on of a process."""
    children: dict[int, list[int]] = {}
    for other in pids():
        if alive(other):
            children.setdefault(parent(other), []).append(other)
    below: list[int] = []
    queue = [pid]
    while queue:
        level = children.get(queue.pop(), [])
        below += level
        queue += level
    return below


def has_open(path: Path) -> list[int]:
    """Return the other processes that have this file open."""
    try:
        target = path.stat()
    except OSError:
        return []
    holders = []
    for pid in pids():
        if pid == os.getpid():
            continue
        try:
            handles = list((PROC / str(pid) / "fd").iterdir())
        except OSError:
            continue
        for handle in handles:
            try:
                stat = handle.stat()
            except OSError:
                continue
            if (stat.st_dev, stat.st_ino) == (target.st_dev, target.st_ino):
                holders.append(pid)
                break
    return holders


def stop(targets: Iterable[int], patience_s: float = 5.0, also: Callable[[], Iterable[int]] = lambda: ()) -> list[int]:
    """Stop these processes and all below them, with SIGTERM and after `patience_s` with SIGKILL; return their numbers.

    `also` is called repeatedly, for processes that are started or re-parented in the meantime.
    """
    signalled: set[int] = set()
    start = time.monotonic()
    while True:
        now = {pid for target in {*targets, *also()} for pid in (target, *descendants(target)) if alive(pid)}
        now -= {os.getpid(), 1}
        if not now:
            return sorted(signalled)
        late = time.monotonic() - start > patience_s
        for pid in now if late else now - signalled:
            try:
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            except ProcessLookupError:
                continue
        signalled |= now
        if time.monotonic() - start > patience_s + 5:
            return sorted(signalled)
        time.sleep(0.05)
