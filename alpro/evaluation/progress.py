"""Progress of an evaluation: a bar on a terminal, plain lines in a log, and heartbeats to the launcher."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from alpro import distributed
from alpro.evaluation.sharing import Progress
from alpro.launch import heartbeat

LINE_EVERY_S = 30.0


@contextmanager
def reporting(label: str) -> Iterator[Progress]:
    """Yield a function of (units done, units in all) that shows the progress; only rank 0 prints."""
    if distributed.rank() != 0 or not label:
        yield lambda done, total: heartbeat.beat(label, done, total)
        return
    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bars:
            bar = bars.add_task(label, total=None)

            def show(done: int, total: int) -> None:
                bars.update(bar, completed=done, total=total)
                heartbeat.beat(label, done, total)

            yield show
        return
    last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        heartbeat.beat(label, done, total)
        if done == total or time.monotonic() - last > LINE_EVERY_S:
            last = time.monotonic()
            print(f"{label}: {done}/{total}", flush=True)

    yield line
