"""Ends this process when its parent, or the pipeline that started it, is gone. Only on Linux; elsewhere nothing happens."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from pathlib import Path

ORPHANED = 70  # exit code of a process whose launcher or parent died
POLL_S = 0.5
MAX_LEVELS = 4  # processes between a stage and `dvc repro`
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (Linux; elsewhere nothing happens)."""
    set_parent_death_signal(signal.SIGKILL)


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send this process a signal when its parent dies. The setting is cleared by fork and kept by exec.

    tools/under_lock.py has its own copy, as it runs before anything is installed.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def watch_process(pid: int) -> None:
    """End this process soon after another one is gone. A daemon thread polls for that."""
    began = _start_time(pid)

    def poll() -> None:
        while _start_time(pid) == began:
            time.sleep(POLL_S)
        exit_orphaned()

    if began is not None:
        threading.Thread(target=poll, name="parent-watch", daemon=True).start()


def watch_pipeline() -> None:
    """Under `dvc repro`, end this process when DVC is killed. The shell between them would live on."""
    if "DVC_STAGE" not in os.environ:
        return
    pid = os.getppid()
    ancestors: list[int] = []
    while pid > 1 and len(ancestors) < MAX_LEVELS:
        ancestors.append(pid)
        words = _read(pid, "cmdline").split(b"\0")[:3]  # dvc repro; python .venv/bin/dvc repro; python -m dvc repro
        if any(os.path.basename(word) == b"dvc" for word in words):
            for ancestor in ancestors:
                watch_process(ancestor)
            return
        pid = int(_stat(pid)[1] or 0)


def exit_orphaned() -> None:
    """End this process at once, without cleaning up."""
    os._exit(ORPHANED)


def _start_time(pid: int) -> str | None:
    """Return the start time, which distinguishes a process from a later one with the same PID; None if it has ended."""
    state, _, began = _stat(pid)
    return None if state in ("", "Z", "X") else began


def _stat(pid: int) -> tuple[str, str, str]:
    """Return state, parent and start time (kernel ticks) of a process; empty strings if there is no such process."""
    fields = _read(pid, "stat").decode(errors="replace").rpartition(")")[2].split()
    return (fields[0], fields[1], fields[19]) if len(fields) > 19 else ("", "", "")


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
