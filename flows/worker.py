"""Ends a flow run when its Prefect worker dies: it could no longer be cancelled and would block the next run."""

from __future__ import annotations

import os
import signal
import threading
import time

CHECK_INTERVAL_S = 1.0


def has_worker() -> bool:
    """Return True if a Prefect worker started this process."""
    return "PREFECT__FLOW_RUN_ID" in os.environ


def end_with_worker() -> None:
    """Send SIGTERM to this process when its worker is gone; Prefect then reports the run as Crashed.

    Does nothing if no worker started this process.
    """
    if has_worker():
        threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECK_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)
