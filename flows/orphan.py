"""A run whose worker is gone ends: nobody could cancel it any more, and the next run must not find it at work."""

from __future__ import annotations

import os
import signal
import threading
import time

EVERY_S = 1.0


def end_with_worker() -> None:
    """Watch the parent, where a worker started this process; a SIGTERM then ends the run, which Prefect shows as Crashed."""
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY_S)
    os.kill(os.getpid(), signal.SIGTERM)
