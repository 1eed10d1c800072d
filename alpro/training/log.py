"""Training log: a line every `log_every` steps, a progress bar on a terminal, and a history.

The history has no timings, so equal trainings give equal histories.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from alpro import distributed
from alpro.terminal import logs
from alpro.terminal.progress import Bar
from alpro.training.task import Best

Row = dict[str, Any]
log = logs.get(__name__)


class Clock:
    """Measures clips per second, the share of time spent waiting for data, and memory, between two lines.

    A clip counts once for each of its texts in a batch, so that the figure compares trainings with any `questions_per_clip`.
    """

    def __init__(self) -> None:
        self.clips = 0
        self._waited_s = 0.0
        self._paused_s = 0.0
        self._began_s = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for a batch."""
        began_s = time.monotonic()
        yield
        self._waited_s += time.monotonic() - began_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time inside: validation, snapshots."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self._paused_s += time.monotonic() - began_s

    def lap(self, world_size: int, device: torch.device, clip_share: float | None = None) -> dict[str, float]:
        """Return the figures since the last call: clips of all `world_size` ranks, memory of this one.

        `clip_share`: seconds that one clip would take at the device's peak, for model FLOPs utilisation.
        """
        seconds = max(1e-9, time.monotonic() - self._began_s - self._paused_s)
        if device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(device)
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        figures = {
            "clips_per_s": self.clips * world_size / seconds,
            "data_wait": self._waited_s / seconds,
            "memory_gb": memory / 1e9,
        }
        if clip_share is not None:
            figures["mfu"] = self.clips * clip_share / seconds
        self.clips, self._waited_s, self._paused_s, self._began_s = 0, 0.0, 0.0, time.monotonic()
        return figures


class LossWindow:
    """Sums of this rank's share of each loss since the last line. They stay on the device, to avoid a synchronisation."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = names
        self.sums = torch.zeros(len(names), dtype=torch.float64, device=device)
        self.steps = 0

    def add(self, losses: Tensor) -> None:
        """Add the losses of one step, (names,)."""
        self.sums += losses
        self.steps += 1

    def means(self, counts: tuple[int, int], world_size: int) -> tuple[dict[str, float], int, int]:
        """Return the mean losses and the sums of two counts, over all ranks, and start the next window."""
        on_device = torch.tensor(counts, dtype=torch.float64, device=self.sums.device)
        averaged = distributed.all_reduce(torch.cat([self.sums, on_device]), "mean", name="window")
        losses = dict(zip(self.names, (averaged[:-2] / self.steps).tolist(), strict=True))
        first, second = (round(count * world_size) for count in averaged[-2:].tolist())
        self.sums.zero_()
        self.steps = 0
        return losses, first, second

    def load(self, steps: int, sums: Sequence[Sequence[float]], rank: int, world_size: int) -> None:
        """Load the sums of all ranks: this rank's own, or their mean if the number of ranks has changed."""
        saved = torch.tensor(sums, dtype=torch.float64, device=self.sums.device)
        self.steps = steps
        self.sums = saved[rank].clone() if len(sums) == world_size else saved.mean(0)  # a rank's sums are its share of a mean


class Log:
    """History of a training and its lines on stdout. Only rank 0 prints."""

    def __init__(self, label: str = "", shown: bool = False, live: Callable[[Row], None] | None = None) -> None:
        """`live` receives each row, with its timings, as soon as it is written."""
        self.label, self.shown, self.live = label, shown, live
        self.history: list[Row] = []
        self._bar = Bar(sys.stdout)
        self._total = 0

    def resume(self, history: list[Row]) -> None:
        """Continue the history of a snapshot."""
        self.history = list(history)

    def write(self, row: Row, times: Mapping[str, float] | None = None) -> None:
        """Add a row to the history and print it, together with figures that depend on the machine."""
        self.history.append(row)
        if self.shown:
            self.say(line(row, times or {}, self._total), {"stage": self.label, **row, **(times or {})})
        if self.live is not None:
            self.live({**row, **(times or {})})

    def say(self, text: str, fields: Row | None = None) -> None:
        """Print a line, above the progress bar if there is one. `fields`: what a JSON log adds to it."""
        if not self.shown:
            return
        if self._bar.visible:
            self._bar.print(text)
        else:
            log.info("%s", f"{self.label}: {text}" if self.label else text, extra={logs.FIELDS: fields or {}})

    def advance(self, step: int) -> None:
        """Move the progress bar."""
        self._bar.update(self.label or "training", step, self._total)

    @contextmanager
    def running(self, step: int, total: int) -> Iterator[None]:
        """Show a progress bar inside, if stdout is a terminal."""
        self._total = total
        if not self.shown:
            yield
            return
        self._bar = Bar(sys.stdout)
        with self._bar.shown():
            self.advance(step)
            yield


def line(row: Mapping[str, Any], times: Mapping[str, float], total: int) -> str:
    """Format a row: `step 120/900  epoch 3  loss 3.21 (vtc 1.20, vtm 0.51)  lr 9.1e-05  norm 3.2  41.3 clips/s ...`."""
    figures = {name: value for name, value in row.items() if name not in ("step", "epoch", "split", "lr", "grad_norm", "loss")}
    losses = ", ".join(f"{name} {_short(value)}" for name, value in figures.items())
    head = f"step {row['step']}/{total}  epoch {row['epoch']}"
    if row["split"] != "train":
        loss = f"loss {_short(row['loss'])}, " if "loss" in row else ""
        return f"{head}  {row['split']}: {loss}{losses}"
    text = f"{head}  loss {_short(row['loss'])} ({losses})  lr {row['lr']:.3g}  norm {_short(row['grad_norm'])}"
    if times:
        text += f"  {times['clips_per_s']:.1f} clips/s  data {100 * times['data_wait']:.0f} %  {times['memory_gb']:.1f} GB"
    if "mfu" in times:
        text += f"  MFU {100 * times['mfu']:.0f} %"
    return text


def last_validation(history: Sequence[Row], metric: str, metrics: Collection[str]) -> Best:
    """Return the last validation in a history; `metric` is the one that selects."""
    row = next(row for row in reversed(history) if row["split"] == "val")
    values = {name: value for name, value in row.items() if name in metrics}
    return Best(row["step"], values[metric], values)


def kept_names(history: Sequence[Row], keep: Collection[str]) -> list[str]:
    """Return the names of the weights that a training with the setting `keep` saves besides its final ones."""
    steps = sorted({row["step"] for row in history if row["split"] == "val"})
    every = [f"step-{step:09d}" for step in steps] if "every" in keep else []
    return [*every, "last"] if {"best", "last"} <= set(keep) else every


def resized_warning(before: int, processes: int, last_step: int) -> str:
    """Explain why a training that resumes with another number of processes is no longer exact."""
    return (
        f"resume: {processes} processes instead of {before}, so the result will differ from an uninterrupted run: a batch has "
        f"{processes}/{before} times as many clips at the same learning rate, the rest of the epoch is divided into new steps "
        f"(the last is now {last_step}), and dropout is reseeded"
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
