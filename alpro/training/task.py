"""alpro/training/task.py: NEW MODULE."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn


class Losses(Protocol):
    """What a model's forward returns."""

    losses: Mapping[str, Tensor]  # means over this rank's items
    counts: Mapping[str, Tensor | int]  # how many items
    weights: Mapping[str, float]  # 1 where a name is missing


class Loader(Protocol):
    """This rank's batches, by micro-step."""

    @property
    def counts(self) -> tuple[int, int]:
        """Samples that this rank left out so far because they can't be read, and all that it asked for."""

    def check_unreadable(self, left_out: int, read: int) -> None:
        """Raise TrainingError where all ranks together left out more than is allowed."""

    def __iter__(self) -> Iterator[tuple[int, Any]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; called once more for each rank that is no more, whose counts this one takes over."""


class Task(Protocol):
    """What the engine has to know of a training. Batches have `ids`, a length, and `to(device)`."""

    flops_per_clip: float  # nominal, of one training step

    @property
    def model(self) -> nn.Module: ...

    @property
    def losses(self) -> Sequence[str]:
        """The names that the model's output has."""

    @property
    def metrics(self) -> Collection[str]:
        """The names that `validate` returns."""

    def plan_for(self, worlds: Sequence[tuple[int, int]]) -> int:
        """Plan the batches for the numbers of processes so far, (first micro-step, processes) each; how many micro-steps."""

    def epoch_of(self, micro_step: int) -> int:
        """The epoch, from 0, that a micro-step belongs to."""

    def loader(self, start: int, stop: int) -> Loader:
        """Batches of the micro-steps from `start` up to, without, `stop`."""

    def validate(self) -> dict[str, float]:
        """Metrics of the validation split, the same on every rank; called in evaluation mode, without gradients."""


@dataclass
class Best:
    """The validation that the named metric likes best."""

    step: int
    value: float
    metrics: dict[str, float]
    weights: dict[str, Tensor] | None = field(default=None, repr=False)  # in memory, where there is no store
