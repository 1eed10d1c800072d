"""Non-finite losses and gradients: all ranks stop at the same step, with a message that names the rank and its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alpro import distributed


class HostCopy:
    """A small tensor on its way to the host. Reading it waits for this copy, not for work that was queued after it."""

    def __init__(self, x: Tensor) -> None:
        self._copy = x.detach().to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if x.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[float]:
        """Return the numbers."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers: list[float] = self._copy.tolist()
        return numbers


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is not finite; the message names the ranks and samples."""


@dataclass(frozen=True)
class MicroStep:
    """Results of one micro-step on this rank. They stay on the device: reading them would force a synchronisation."""

    ids: list[str]  # of the samples
    losses: Tensor  # (1 + losses,): this rank's share of the weighted sum, then of each loss
    rows_finite: Tensor  # () bool: this rank's rows that all ranks gather


def nan_unless_finite(losses: Sequence[Tensor]) -> Tensor:
    """Return 0, or NaN if a loss is not finite, as a () tensor.

    Added to a gradient, the NaN reaches all ranks with the exchange, and they stop at the same step.
    """
    return torch.stack(list(losses)).sum() * 0


def describe_non_finite(names: Sequence[str], micro_steps: Sequence[MicroStep], gradient_finite: bool) -> str:
    """Name the ranks, losses and samples with non-finite numbers; every rank must call it.

    `names` are those of the losses; `gradient_finite` is about this rank's own gradient, from before the exchange.
    """
    reports = []
    for micro in micro_steps:
        bad = [name for name, loss in zip(names, micro.losses[1:], strict=True) if not loss.isfinite()]
        # a loss over gathered rows is non-finite on every rank if one rank's rows are, so the rows are the strongest evidence
        evidence = 3 if not micro.rows_finite else 2 if bad else 0 if gradient_finite else 1
        reports.append((evidence, distributed.rank(), bad, micro.ids))
    all_reports = [report for rank_reports in distributed.gather_objects(reports) for report in rank_reports]
    strongest = max(evidence for evidence, *_ in all_reports)
    culprits = "; ".join(
        f"rank {rank}: {', '.join(bad) or 'gradient'}; batch {', '.join(ids)}"
        for evidence, rank, bad, ids in all_reports
        if evidence == strongest
    )
    if not strongest:
        culprits = f"every rank's own gradient is finite, but their mean or its norm is not; {culprits}"
    return f"loss or gradient is not finite ({culprits})"
