"""The interface of a backend, which connects the ranks of a world and exchanges tensors between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

Reduction = Literal["sum", "max", "min"]


class LostRankError(RuntimeError):
    """An exchange failed because another rank has ended or cannot be reached. The cause is in that rank's own error."""


class Backend(ABC):
    """Rank, size and collectives of one world. All ranks call the same collectives, in the same order.

    Tensors are contiguous, on a device that `exchanges_on` allows, and neither bool nor 16 bits wide, except that
    `start_reduce` takes fp16. Every collective raises LostRankError if another rank is lost.
    """

    name: ClassVar[str]
    # True if collectives that are on their way at the same time are matched by their order, False if by their names
    matches_by_order: ClassVar[bool]
    rank: int
    size: int
    local_rank: int
    local_size: int

    @abstractmethod
    def connect(self) -> None:
        """Connect to the other ranks; afterwards rank and sizes are known. Raises LaunchError if that is impossible."""

    @abstractmethod
    def leave(self) -> None:
        """Disconnect from the other ranks."""

    @abstractmethod
    def exchanges_on(self, device: torch.device) -> bool:
        """Return True if tensors on this device can be exchanged; the others must be copied to the CPU first."""

    @abstractmethod
    def all_gather(self, x: Tensor, name: str, rows: Sequence[int] | None = None) -> Tensor:
        """Return the rows of all ranks: (n_r, ...) on rank r -> (sum of n_r, ...).

        `rows` is the number of rows of each rank, if it is known.
        """

    @abstractmethod
    def start_reduce(self, x: Tensor, operation: Reduction, name: str) -> Callable[[], Tensor]:
        """Start to reduce a tensor over all ranks, in place; return a function that waits and returns the result.

        The result is the same on all ranks, bit for bit, and in every run.
        """

    @abstractmethod
    def broadcast(self, x: Tensor, root: int, name: str) -> None:
        """Overwrite a tensor with the root's."""

    @abstractmethod
    def barrier(self) -> None:
        """Wait until every rank has called this."""
