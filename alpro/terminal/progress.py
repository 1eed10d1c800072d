"""Progress of work on many files or bytes: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int | None], None]
LINE_EVERY_S = 10.0


@contextmanager
def reporting(label: str, unit: str = "files") -> Iterator[Report]:
    """A function of (done, in all or None) that shows them; `unit` "bytes" is printed as MB."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), count, TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            bar = bars.add_task(label, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)
        return
    last = time.monotonic()

    def line(done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last > LINE_EVERY_S:
            last = time.monotonic()
            shown = _mb(done, total) if unit == "bytes" else f"{done}/{total or '?'} {unit}"
            print(f"{label}: {shown}", file=sys.stderr, flush=True)

    yield line


def _mb(done: int, total: int | None) -> str:
    return f"{done / 1e6:.0f}/{total / 1e6:.0f} MB" if total else f"{done / 1e6:.0f} MB"
