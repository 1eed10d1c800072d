"""Clear away what a killed `dvc repro` left: its entries in DVC's rwlock, and stages that still run without it.

DVC drops the entries of numbers that no longer exist, but takes a zombie, or a new process with an old number, for a run
that goes on, and stops for ever at a lock file that was cut while being written. After kill -9 of dvc its stage lives on
and would write into the same files as the next run. `.dvc/tmp/lock` needs nothing: the system frees it with its holder.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import file_lock
import processes

CLOCK_SLACK_S = 2.0  # a process's start is known to about a second


def _is_dead(pid: int, written: float) -> bool:
    """Whether the process that wrote the lock has ended: gone, a zombie, or the number's owner is younger than the lock."""
    return not processes.alive(pid) or processes.started(pid) > written + CLOCK_SLACK_S


def clear_rwlock(root: Path) -> list[str]:
    """Remove what dead processes hold from `.dvc/tmp/rwlock`; one line for each. Living ones keep what they hold."""
    path = root / ".dvc" / "tmp" / "rwlock"
    if not path.exists():
        return []
    try:
        guard = file_lock.acquire(path.with_name("rwlock.lock"))
    except file_lock.LockHeld:
        return []  # a DVC process is writing the file right now, so it is in use
    with guard:
        try:
            written = path.stat().st_mtime
            held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            writers, readers = dict(held.get("write", {})), dict(held.get("read", {}))
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, AttributeError):
            path.unlink()
            return ["removed DVC's lock file, which a killed process had left half-written"]
        dead: dict[int, str] = {}

        def lives(info: dict[str, Any]) -> bool:
            if _is_dead(int(info["pid"]), written):
                dead[int(info["pid"])] = str(info["cmd"])
                return False
            return True

        writers = {place: info for place, info in writers.items() if lives(info)}
        readers = {place: [info for info in infos if lives(info)] for place, infos in readers.items()}
        readers = {place: infos for place, infos in readers.items() if infos}
        if not dead:
            return []
        if writers or readers:
            aside = path.with_name("rwlock.new")
            aside.write_text(json.dumps({"write": writers, "read": readers}), encoding="utf-8")
            os.replace(aside, path)
        else:
            path.unlink()
        return [f"removed the lock that dead process {pid} ({cmd}) had left" for pid, cmd in sorted(dead.items())]


def abandoned(root: Path) -> dict[int, str]:
    """Stages of this checkout whose dvc has gone: {process: stage}, the topmost process of each."""
    root = root.resolve()
    stage_of: dict[int, str] = {}
    for pid in processes.pids():
        variables = processes.environment(pid)
        if "DVC_STAGE" in variables and Path(variables.get("DVC_ROOT", "")).resolve() == root and processes.alive(pid):
            stage_of[pid] = variables["DVC_STAGE"]
    mine = {os.getpid()}
    above = processes.parent(os.getpid())
    while above > 1:
        mine.add(above)
        above = processes.parent(above)
    return {
        pid: stage
        for pid, stage in stage_of.items()
        if pid not in mine and processes.parent(pid) not in stage_of and not _is_dvc(processes.parent(pid))
    }


def _is_dvc(pid: int) -> bool:
    return any(os.path.basename(word) == "dvc" for word in processes.command(pid)[:4])


def stop_abandoned(root: Path) -> list[str]:
    """End those stages, within ten seconds; one line for each. They keep resume state, so little is lost."""
    found = abandoned(root)
    processes.stop(found)
    return [f"stopped stage {stage} (process {pid}), which an interrupted run had left behind" for pid, stage in found.items()]


if __name__ == "__main__":
    here = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for line in [*stop_abandoned(here), *clear_rwlock(here)]:
        print(line)
