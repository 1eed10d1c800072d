"""MLM, masked language modeling: the masked tokens from the text and the video (paper section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alpro.objectives.precision import widened

IGNORED = -100  # the label of a position where nothing is to be predicted


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of (M, vocabulary) logits over the M masked tokens (M,); 0, with zero gradients, when M is 0."""
    return F.cross_entropy(widened(logits), labels, reduction="sum") / max(len(labels), 1)


def masked_positions(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each position of labels (B, L) that is to be predicted, in reading order."""
    rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
    return rows, columns
