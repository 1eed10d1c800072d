"""What one sees of a training: a line every few steps, a bar on a terminal, and the history, which holds no times."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from alpro.terminal import console
from alpro.terminal.progress import Bar

Row = dict[str, Any]


class Clock:
    """Measures clips a second, the share of time spent waiting for data, and memory, between two lines."""

    def __init__(self) -> None:
        self.clips = 0
        self._waited_s = 0.0
        self._paused_s = 0.0
        self._began_s = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time that goes into waiting for a batch."""
        began_s = time.monotonic()
        yield
        self._waited_s += time.monotonic() - began_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count: validation, snapshots."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self._paused_s += time.monotonic() - began_s

    def lap(self, world: int, device: torch.device, clip_share: float | None = None) -> dict[str, float]:
        """Figures since the last call; clips of all `world` ranks, memory of this one.

        `clip_share`: seconds that one clip would take at the device's peak, for model FLOPs utilisation.
        """
        seconds = max(1e-9, time.monotonic() - self._began_s - self._paused_s)
        if device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(device)
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        figures = {
            "clips_per_s": self.clips * world / seconds,
            "data_wait": self._waited_s / seconds,
            "memory_gb": memory / 1e9,
        }
        if clip_share is not None:
            figures["mfu"] = self.clips * clip_share / seconds
        self.clips, self._waited_s, self._paused_s, self._began_s = 0, 0.0, 0.0, time.monotonic()
        return figures


class Log:
    """The history of a training, and its lines on stdout. On ranks other than the first it keeps and shows nothing."""

    def __init__(self, label: str = "", shown: bool = False, live: Callable[[Row], None] | None = None) -> None:
        """`live` gets each row with its times as it comes."""
        self.label, self.shown, self.live = label, shown, live
        self.history: list[Row] = []
        self._bar = Bar(sys.stdout)
        self._total = 0

    def resume(self, history: list[Row]) -> None:
        """Go on after what a snapshot holds."""
        self.history = list(history)

    def write(self, row: Row, times: Mapping[str, float] | None = None) -> None:
        """Take a row into the history and show it, together with figures that depend on the machine."""
        self.history.append(row)
        if self.shown:
            self.say(line(row, times or {}, self._total))
        if self.live is not None:
            self.live({**row, **(times or {})})

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if not self.shown:
            return
        if self._bar.visible:
            self._bar.print(text)
        else:
            console.say(f"{self.label}: {text}" if self.label else text)

    def advance(self, step: int) -> None:
        """Move the bar."""
        self._bar.update(self.label or "training", step, self._total)

    @contextmanager
    def running(self, step: int, total: int) -> Iterator[None]:
        """Show a progress bar during a block, if stdout is a terminal."""
        self._total = total
        if not self.shown:
            yield
            return
        self._bar = Bar(sys.stdout)
        with self._bar.shown():
            self.advance(step)
            yield


def line(row: Mapping[str, Any], times: Mapping[str, float], total: int) -> str:
    """One row as a line: `step 120/900  epoch 3  loss 3.21 (vtc 1.20, vtm 0.51)  lr 9.1e-05  norm 3.2  41.3 clips/s ...`."""
    figures = {name: value for name, value in row.items() if name not in ("step", "epoch", "split", "lr", "grad_norm", "loss")}
    parts = ", ".join(f"{name} {_short(value)}" for name, value in figures.items())
    head = f"step {row['step']}/{total}  epoch {row['epoch']}"
    if row["split"] != "train":
        loss = f"loss {_short(row['loss'])}, " if "loss" in row else ""
        return f"{head}  {row['split']}: {loss}{parts}"
    text = f"{head}  loss {_short(row['loss'])} ({parts})  lr {row['lr']:.3g}  norm {_short(row['grad_norm'])}"
    if times:
        text += f"  {times['clips_per_s']:.1f} clips/s  data {100 * times['data_wait']:.0f} %  {times['memory_gb']:.1f} GB"
    if "mfu" in times:
        text += f"  MFU {100 * times['mfu']:.0f} %"
    return text


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
