"""VTM, video-text matching: does this caption belong to this clip? With two hard negatives a pair (paper section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def hard_negatives(similarity: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """For each row of similarity / temperature (B, B), another row's index drawn by softmax: (B,) int64.

    The diagonal, the true pair, is never drawn. A generator may live on another device than the similarities. Raises
    ValueError for B = 1, where there is no other.
    """
    if len(similarity) < 2:
        raise ValueError("a batch of one pair has no negatives")
    weights = similarity.detach().float().clone().fill_diagonal_(float("-inf")).softmax(1)
    drawn = torch.multinomial(weights.to(generator.device) if generator else weights, 1, generator=generator)
    return drawn[:, 0].to(similarity.device)


def vtm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of (P, 2) logits; class 1 is a match."""
    return F.cross_entropy(logits, labels)
