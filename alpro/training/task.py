"""Interfaces between the engine and a training: the model's output, the data loader, and the task that combines them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from alpro.errors import ConfigError, nearest


class Losses(Protocol):
    """Output of a model's forward pass."""

    losses: Mapping[str, Tensor]  # means over this rank's items
    counts: Mapping[str, Tensor | int]  # numbers of items
    weights: Mapping[str, float]  # 1 if a name is missing


class BatchLoader(Protocol):
    """This rank's batches, by micro-step."""

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of samples so far on this rank: left out as unreadable, and requested."""

    def check_unreadable(self, left_out: int, read: int) -> None:
        """Raise TrainingError if all ranks together left out more samples than allowed."""

    def __iter__(self) -> Iterator[tuple[int, Any]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a saved state. Called again for every rank that has left, so that this rank inherits its counts."""


class Task(Protocol):
    """A training as the engine sees it. Batches have `ids`, a length, and `to(device)`."""

    flops_per_clip: float  # nominal, of one training step, for each sample: a clip that several texts share is divided

    @property
    def model(self) -> nn.Module: ...

    @property
    def losses(self) -> Sequence[str]:
        """Names of the losses in the model's output."""

    @property
    def metrics(self) -> Collection[str]:
        """Names of the metrics that `validate` returns."""

    def plan_for(self, worlds: Sequence[tuple[int, int]]) -> int:
        """Plan the batches and return the number of micro-steps; `worlds`: (first micro-step, processes) of each world size."""

    def epoch_of(self, micro_step: int) -> int:
        """Return the epoch of a micro-step, counted from 0."""

    def loader(self, start: int, stop: int) -> BatchLoader:
        """Return the batches of micro-steps `start` to `stop - 1`."""

    def validate(self) -> dict[str, float]:
        """Return metrics of the validation split, the same on every rank. Called in evaluation mode, without gradients."""


@dataclass
class Best:
    """The validation with the best value of `select_by` so far."""

    step: int
    value: float
    metrics: dict[str, float]


def selection(select_by: str, metrics: Collection[str]) -> tuple[str, int]:
    """Split `select_by` into the metric and its sign: -1 if smaller is better. Raises ConfigError for an unknown metric."""
    metric, sign = select_by.removeprefix("-"), -1 if select_by.startswith("-") else 1
    if metric not in metrics:
        names = ", ".join(sorted(metrics))
        raise ConfigError(f"select_by {select_by!r}: no such metric{nearest(metric, metrics)}; the metrics are {names}")
    return metric, sign
