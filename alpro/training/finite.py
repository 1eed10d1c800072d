"""alpro/training/finite.py: NEW MODULE."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def _spoil(parameters: Sequence[nn.Parameter], losses: Tensor) -> None:
    """Make a gradient NaN where a loss is not finite: the exchange carries it to all ranks, and they stop at the same step."""
    for p in parameters:
        if p.grad is not None:
            p.grad.add_((losses.sum() * 0).to(p.grad.dtype))
            return
