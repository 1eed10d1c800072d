"""Numerical precision: autocast for the models, and at least float32 for the losses."""

from __future__ import annotations

import torch
from torch import Tensor

AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context that computes in bf16 or fp16; with precision "fp32" autocast is off."""
    dtype = AUTOCAST_TYPES.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def widened(x: Tensor) -> Tensor:
    """Return the tensor in float32, also from half precision under autocast; float64 stays (used by tests of exactness)."""
    return x if x.dtype == torch.float64 else x.float()
