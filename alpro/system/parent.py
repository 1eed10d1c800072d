"""alpro/system/parent.py: NEW MODULE."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from pathlib import Path

ORPHANED = 70  # exit code of a process whose launcher died


POLL_S = 0.5


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies (Linux; elsewhere nothing happens).

    For children that would otherwise be found only by polling: training processes, readers of a loader.
    """
    set_parent_death_signal(signal.SIGKILL)


def set_parent_death_signal(number: int) -> None:
    """`prctl(PR_SET_PDEATHSIG)` for the calling process; cleared by fork, kept through exec."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, number, 0, 0, 0)


def watch_process(pid: int) -> None:
    """End this process soon after another one is gone, from a thread."""
    began = _started(pid)

    def poll() -> None:
        while _started(pid) == began:
            time.sleep(POLL_S)
        _orphaned()

    if began is not None:
        threading.Thread(target=poll, name="parent-watch", daemon=True).start()


def watch_pipeline() -> None:
    """Under `dvc repro`: end when DVC is killed, which would leave its stage running (the shell between them lives on)."""
    if "DVC_STAGE" not in os.environ:
        return
    pid = os.getppid()
    between: list[int] = []
    while pid > 1 and len(between) < 4:
        between.append(pid)
        words = _read(pid, "cmdline").split(b"\0")[:3]  # dvc repro; python .venv/bin/dvc repro; python -m dvc repro
        if any(os.path.basename(word) == b"dvc" for word in words):
            for ancestor in between:
                watch_process(ancestor)
            return
        pid = int(_stat(pid)[1] or 0)


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's ticks: with the number it names one process for ever; None: gone."""
    state, _, began = _stat(pid)
    return None if state in ("", "Z", "X") else began


def _stat(pid: int) -> tuple[str, str, str]:
    """State, parent and start of a process; empty where there is none."""
    fields = _read(pid, "stat").decode(errors="replace").rpartition(")")[2].split()
    return (fields[0], fields[1], fields[19]) if len(fields) > 19 else ("", "", "")


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _orphaned() -> None:
    os._exit(ORPHANED)
