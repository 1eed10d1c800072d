"""The bar of `alpro launch` on a terminal: how far the first process says it is. What the processes print stands above it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from alpro.terminal import console

OF_A_STEP = ("reading", "computing", "exchange", "saving")


class Bar:
    """Shows nothing where stdout is no terminal: there the processes' own lines are all."""

    def __init__(self) -> None:
        self._bars: Any = None
        self._task: Any = None
        self._shown: tuple[str, int] | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the bar at the foot of the terminal meanwhile."""
        if not sys.stdout.isatty():
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        terminal = Console(file=cast(TextIO, console.Lasting(sys.stdout)))
        with Progress(*columns, console=terminal, transient=True, redirect_stderr=sys.stderr.isatty()) as self._bars:
            try:
                yield
            finally:
                self._bars = None

    def move(self, what: str, done: int | None, total: int | None) -> None:
        """One heartbeat: `done` of `total` steps of a training, or units of an evaluation."""
        if self._bars is None or done is None or total is None:
            return
        label = "training" if what in OF_A_STEP else what
        if self._shown != (label, total):
            if self._shown is not None:
                self._bars.remove_task(self._task)
            self._task, self._shown = self._bars.add_task(label, total=total, completed=done), (label, total)
        self._bars.update(self._task, completed=done)
