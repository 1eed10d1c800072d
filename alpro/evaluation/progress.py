"""Progress of an evaluation: a bar on a terminal, plain lines in a log, and heartbeats to the launcher."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from alpro import distributed
from alpro.evaluation.sharing import Progress
from alpro.launch import heartbeat
from alpro.terminal.progress import Bar

LINE_EVERY_S = 30.0


@contextmanager
def reporting(label: str) -> Iterator[Progress]:
    """Yield a function of (units done, total units) that shows progress; only rank 0 prints."""
    if distributed.rank() != 0 or not label:
        yield lambda done, total: heartbeat.beat(label, done, total)
        return
    bar = Bar(sys.stderr)
    last_s = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last_s
        heartbeat.beat(label, done, total)
        bar.update(label, done, total)
        if not bar.visible and (done == total or time.monotonic() - last_s > LINE_EVERY_S):
            last_s = time.monotonic()
            print(f"{label}: {done}/{total}", flush=True)

    with bar.shown():
        bar.update(label, 0, None)
        yield report
