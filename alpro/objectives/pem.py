"""PEM, prompting entity modeling: predicts the entities that the frozen prompter finds in a crop (paper section 3.3, eq. 5-7).

Letters: B batch, T frames, N patches, D width, E entities.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from alpro.objectives.precision import widened


def boxes_to_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """Convert boxes (B, 4) of left, top, width, height in pixels to masks (B, height, width), true inside."""
    left, top, w, h = boxes[:, :, None].unbind(1)  # (B, 1) each
    x, y = torch.arange(width, device=boxes.device), torch.arange(height, device=boxes.device)
    columns, rows = (x >= left) & (x < left + w), (y >= top) & (y < top + h)
    return rows[:, :, None] & columns[:, None, :]


def crop(pixels: Tensor, inside: Tensor, black: Tensor) -> Tensor:
    """Set every pixel of clips (B, T, 3, H, W) outside of the mask (B, H, W) to the color `black` (3,)."""
    return torch.where(inside[:, None, None], pixels, black.to(pixels)[:, None, None])


def mean_inside(tokens: Tensor, inside: Tensor) -> Tensor:
    """Return the mean of the patch tokens (B, N, D) inside the mask (B, N): (B, D)."""
    weights = inside.to(tokens.dtype)
    return (tokens * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)


def soft_labels(logits: Tensor) -> Tensor:
    """Convert the prompter's similarities / temperature (B, E) to probabilities (B, E)."""
    return widened(logits).softmax(1)


def keep_mask(labels: Tensor, rule: Literal["max_probability", "argmax_zero"], threshold: float) -> Tensor:
    """Return the mask of crops whose label is used, (B,) bool.

    `max_probability` drops a crop whose best entity has a probability under the threshold (the paper). `argmax_zero` drops a
    crop whose best entity is entity 0: the released code compares the arg-max's index with the threshold.
    """
    best, entity = labels.max(1)
    return best >= threshold if rule == "max_probability" else entity != 0


def pem_loss(logits: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
    """Return the mean soft cross-entropy of (B, E) logits over the samples in `keep` (B,); 0 with zero gradients if none is."""
    per_sample = -(F.log_softmax(widened(logits), 1) * labels).sum(1)
    return (per_sample * keep).sum() / keep.sum().clamp(min=1)
