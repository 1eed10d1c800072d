"""Cleans up after a killed `dvc repro`: removes its entries from DVC's rwlock and stops stages that still run.

DVC ignores lock entries of dead PIDs, but mistakes zombies and reused PIDs for live runs, and blocks forever on a truncated
lock file. After `kill -9` of dvc its stage continues, and would write into the same files as the next run. `.dvc/tmp/lock`
needs no cleanup: the system frees it when its holder ends.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import file_lock
import processes

CLOCK_SLACK_S = 2.0  # start times of processes are known to about a second


def _is_dead(pid: int, written: float) -> bool:
    """Return True if the process that wrote the lock has ended: no such process, a zombie, or one younger than the lock."""
    return not processes.alive(pid) or processes.started(pid) > written + CLOCK_SLACK_S


def clear_rwlock(root: Path) -> list[str]:
    """Remove entries of dead processes from `.dvc/tmp/rwlock`; return one line for each process."""
    path = root / ".dvc" / "tmp" / "rwlock"
    if not path.exists():
        return []
    try:
        lock = file_lock.acquire(path.with_name("rwlock.lock"))
    except file_lock.LockHeld:
        return []  # a DVC process is writing the file right now, so it is in use
    with lock:
        try:
            written = path.stat().st_mtime
            entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            writers, readers = dict(entries.get("write", {})), dict(entries.get("read", {}))
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, AttributeError):
            path.unlink()
            return ["removed DVC's lock file, which a killed process had left truncated"]
        dead: dict[int, str] = {}

        def is_alive(info: dict[str, Any]) -> bool:
            if _is_dead(int(info["pid"]), written):
                dead[int(info["pid"])] = str(info["cmd"])
                return False
            return True

        writers = {name: info for name, info in writers.items() if is_alive(info)}
        readers = {name: [info for info in infos if is_alive(info)] for name, infos in readers.items()}
        readers = {name: infos for name, infos in readers.items() if infos}
        if not dead:
            return []
        if writers or readers:
            temporary = path.with_name("rwlock.new")
            temporary.write_text(json.dumps({"write": writers, "read": readers}), encoding="utf-8")
            os.replace(temporary, path)
        else:
            path.unlink()
        return [f"removed the lock that dead process {pid} ({cmd}) had left" for pid, cmd in sorted(dead.items())]


def abandoned(root: Path) -> dict[int, str]:
    """Return the stages of this checkout whose dvc has ended: topmost process of each -> name of the stage."""
    root = root.resolve()
    stage_of: dict[int, str] = {}
    for pid in processes.pids():
        variables = processes.environment(pid)
        if "DVC_STAGE" in variables and Path(variables.get("DVC_ROOT", "")).resolve() == root and processes.alive(pid):
            stage_of[pid] = variables["DVC_STAGE"]
    own = {os.getpid()}
    ancestor = processes.parent(os.getpid())
    while ancestor > 1:
        own.add(ancestor)
        ancestor = processes.parent(ancestor)
    return {
        pid: stage
        for pid, stage in stage_of.items()
        if pid not in own and processes.parent(pid) not in stage_of and not _is_dvc(processes.parent(pid))
    }


def _is_dvc(pid: int) -> bool:
    return any(os.path.basename(word) == "dvc" for word in processes.command(pid)[:4])


def stop_abandoned(root: Path) -> list[str]:
    """Stop those stages within 10 s; return one line for each. They have resume state, so little work is lost."""
    stages = abandoned(root)
    processes.stop(stages)
    return [f"stopped stage {stage} (process {pid}), which an interrupted run had left behind" for pid, stage in stages.items()]


if __name__ == "__main__":
    here = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for line in [*stop_abandoned(here), *clear_rwlock(here)]:
        print(line)
