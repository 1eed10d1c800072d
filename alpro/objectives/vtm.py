"""VTM, video-text matching: classifies whether a caption belongs to a clip; two hard negatives per pair (paper section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def hard_negatives(similarity: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw, for each row of similarity / temperature (B, B), the index of another row by softmax: (B,) int64.

    The diagonal, the true pair, is never drawn. The generator may be on another device than the similarities. Raises
    ValueError if B is 1.
    """
    if len(similarity) < 2:
        raise ValueError("a batch of one pair has no negatives")
    weights = similarity.detach().float().clone().fill_diagonal_(float("-inf")).softmax(1)
    weights = weights.to(generator.device) if generator else weights
    # `torch.multinomial` draws the same numbers, but checks the weights on the host, which would wait for a GPU.
    drawn = (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(1)
    return drawn.to(similarity.device)


def vtm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of (P, 2) logits; class 1 is a match."""
    return F.cross_entropy(logits, labels)
