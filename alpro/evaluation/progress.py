"""Progress of an evaluation: shown by rank 0, with heartbeats of every rank to the launcher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alpro import distributed
from alpro.evaluation.sharing import Progress
from alpro.launch import heartbeat
from alpro.terminal.progress import reporting


@contextmanager
def evaluation_progress(label: str) -> Iterator[Progress]:
    """Yield a function of (units done, total units) that shows progress and beats; only rank 0 prints."""
    if distributed.rank() != 0 or not label:
        yield lambda done, total: heartbeat.beat(label, done, total)
        return
    with reporting(label, unit="", last_line=True) as show:

        def report(done: int, total: int) -> None:
            heartbeat.beat(label, done, total)
            show(done, total)

        yield report
