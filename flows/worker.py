"""Ends a flow run when its Prefect worker dies: it could no longer be cancelled and would block the next run."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil

CHECK_INTERVAL_S = 1.0


def has_worker() -> bool:
    """Return True if a Prefect worker started this process."""
    return "PREFECT__FLOW_RUN_ID" in os.environ


def end_with_worker() -> None:
    """Send SIGTERM to this process when its worker is gone; Prefect then reports the run as Crashed.

    Does nothing if no worker started this process.
    """
    if has_worker() and _has_lost_worker():  # while Prefect made the clone
        os.kill(os.getpid(), signal.SIGTERM)
    elif has_worker():
        threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()


def _has_lost_worker() -> bool:
    """Return True if the parent is another process than a worker, or than the `prefect flow-run execute` of a container."""
    try:
        return not any("prefect" in word for word in psutil.Process(os.getppid()).cmdline())
    except psutil.AccessDenied:
        return False
    except psutil.NoSuchProcess:
        return True


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECK_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)
