"""Progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from alpro.terminal import logs
from alpro.terminal.console import SafeStream

ProgressCallback = Callable[[int, int | None], None]
log = logs.get(__name__)
LINE_EVERY_S = 10.0


class Bar:
    """A progress bar at the bottom of a terminal; other output appears above it. Off a terminal nothing is shown."""

    def __init__(self, stream: TextIO, unit: str = "", transient: bool = False) -> None:
        """`unit` "bytes" shows sizes instead of counts; a `transient` bar disappears at the end."""
        self._stream, self._unit, self._transient = stream, unit, transient
        self._progress: Any = None
        self._task: Any = None
        self._label: str | None = None

    @property
    def visible(self) -> bool:
        """True inside `shown` on a terminal."""
        return self._progress is not None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar during a block."""
        if not self._stream.isatty() or not logs.shows_progress():
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        count = DownloadColumn() if self._unit == "bytes" else MofNCompleteColumn()
        progress = Progress(
            *(TextColumn("{task.description}", markup=False), BarColumn(), count, TimeRemainingColumn()),
            console=Console(file=cast(TextIO, SafeStream(self._stream))),
            transient=self._transient,
            # a stream that goes to a file must not be printed on the terminal instead
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        with progress as self._progress:
            try:
                yield
            finally:
                self._progress = self._label = None

    def update(self, label: str, done: int, total: int | None) -> None:
        """Set the bar to `done` of `total`. Another label than before starts a new bar in place of the old one."""
        if self._progress is None:
            return
        if self._label != label:
            if self._label is not None:
                self._progress.remove_task(self._task)
            self._task, self._label = self._progress.add_task(label, total=total, completed=done), label
        self._progress.update(self._task, completed=done, total=total)

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def reporting(label: str, unit: str = "files", *, last_line: bool = False) -> Iterator[ProgressCallback]:
    """Yield a function of (done, total or None) that shows progress on stderr; `unit` "bytes" is printed as MB.

    Off a terminal it prints a line every LINE_EVERY_S and, with `last_line`, also when all is done.
    """
    bar = Bar(sys.stderr, unit)
    last_s = time.monotonic()

    def report(done: int, total: int | None) -> None:
        nonlocal last_s
        bar.update(label, done, total)
        complete = last_line and done == total
        if not bar.visible and (complete or time.monotonic() - last_s > LINE_EVERY_S):
            last_s = time.monotonic()
            count = _megabytes(done, total) if unit == "bytes" else f"{done}/{total or '?'} {unit}".rstrip()
            log.info("%s: %s", label, count)

    with bar.shown():
        bar.update(label, 0, None)
        yield report


def _megabytes(done: int, total: int | None) -> str:
    return f"{done / 1e6:.0f}/{total / 1e6:.0f} MB" if total else f"{done / 1e6:.0f} MB"
