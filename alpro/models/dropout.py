"""Dropout with a fast mask on a CPU, where drawing torch's own mask costs more than the surrounding layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LANE = 16  # random bits per element; the rate is rounded to a multiple of 1/2**LANE


class Dropout(nn.Dropout):
    """Drop-in replacement of torch.nn.Dropout."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements in training; input and output have the same shape."""
        return dropout(input, self.p) if self.training else input


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zero elements of `x` at this rate (0 <= rate < 1) and divide the rest by 1 - rate."""
    if not rate or x.device.type != "cpu":
        return F.dropout(x, rate)
    dropped = min(round(rate * 2**LANE), 2**LANE - 1)
    # one draw of 64 bits serves four elements
    bits = torch.empty(-(-x.numel() * LANE // 64), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    keep = bits.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2 ** (LANE - 1)
    return x * keep.to(x.dtype).mul_(1 / (1 - dropped / 2**LANE))
