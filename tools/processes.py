"""What /proc tells about running processes: who lives, who is a zombie, who was left behind. Linux; needs nothing installed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

PROC = Path("/proc")


def pids() -> list[int]:
    """Every process, zombies too."""
    return sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name (state, ppid, ...), or none if there is no such process."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    """Whether the process still runs: a zombie has ended, only its parent hasn't asked."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def parent(pid: int) -> int:
    """Its parent's number; 0 where there is none."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def started(pid: int) -> float:
    """When it started, in seconds since 1970 (to about a second); 0 where it has ended."""
    fields = _stat(pid)
    if not fields:
        return 0.0
    boot = next(float(line.split()[1]) for line in (PROC / "stat").read_text().splitlines() if line.startswith("btime"))
    return boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def command(pid: int) -> list[str]:
    """Its command line; empty where it can't be read."""
    try:
        return [part for part in (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0") if part]
    except OSError:
        return []


def environment(pid: int) -> dict[str, str]:
    """The variables it was started with; empty where they can't be read (another user's)."""
    try:
        entries = (PROC / str(pid) / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def descendants(pid: int) -> list[int]:
    """All living children, grandchildren and so on."""
    children: dict[int, list[int]] = {}
    for other in pids():
        if alive(other):
            children.setdefault(parent(other), []).append(other)
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def has_open(path: Path) -> list[int]:
    """The living processes that have this file open, this one left out."""
    try:
        wanted = path.stat()
    except OSError:
        return []
    found = []
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
            if (stat.st_dev, stat.st_ino) == (wanted.st_dev, wanted.st_ino):
                found.append(pid)
                break
    return found


def stop(targets: Iterable[int], patience_s: float = 5.0, also: Callable[[], Iterable[int]] = lambda: ()) -> list[int]:
    """End these processes and all below them: politely, and after `patience_s` for certain. Returns the numbers.

    `also` is asked again in between, for processes that were started or re-parented meanwhile.
    """
    told: set[int] = set()
    start = time.monotonic()
    while True:
        now = {pid for target in {*targets, *also()} for pid in (target, *descendants(target)) if alive(pid)}
        now -= {os.getpid(), 1}
        if not now:
            return sorted(told)
        late = time.monotonic() - start > patience_s
        for pid in now if late else now - told:
            try:
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            except ProcessLookupError:
                continue
        told |= now
        if time.monotonic() - start > patience_s + 5:
            return sorted(told)
        time.sleep(0.05)
