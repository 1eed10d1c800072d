"""In which precision losses are computed: float32 at the least, float64 where a model has it (proofs of exactness)."""

from __future__ import annotations

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """The tensor in float32, also out of half precision under autocast; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()
