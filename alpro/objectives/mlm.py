"""MLM, masked language modeling: predicts masked tokens from the text and the video (paper section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alpro.objectives.precision import widened

IGNORED = -100  # label of a position without a prediction; cross-entropy's default


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of (M, vocabulary) logits over M masked tokens; 0 with zero gradients if M is 0."""
    return F.cross_entropy(widened(logits), labels, reduction="sum") / max(len(labels), 1)


def masked_positions(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of each position of labels (B, L) that has a label, in reading order."""
    rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
    return rows, columns
