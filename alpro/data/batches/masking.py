"""Masked words of MLM and crop boxes of PEM (paper, sections 3.2 and 3.3)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from alpro.errors import ConfigError
from alpro.objectives.mlm import IGNORED

_TRIES = 1000


def mask_tokens(
    input_ids: Tensor,  # (B, L) int64
    special: Tensor,  # (B, L) bool: [CLS], [SEP], [PAD] are never masked
    mask_id: int,
    vocab_size: int,
    probability: float,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Select each token with `probability`; replace 80 % of them by [MASK] and 10 % by a random token, and keep 10 %.

    Returns the masked ids and the labels, both (B, L); labels are -100 for tokens that were not selected.
    Random numbers are drawn in the same order as in the released code. Source: Devlin et al., BERT, section 3.1.
    """
    selected = _bernoulli(input_ids.shape, probability, generator) & ~special
    hidden = _bernoulli(input_ids.shape, 0.8, generator) & selected
    swapped = _bernoulli(input_ids.shape, 0.5, generator) & selected & ~hidden
    random_ids = torch.randint(vocab_size, input_ids.shape, dtype=torch.long, generator=generator)
    masked = torch.where(swapped, random_ids, input_ids.masked_fill(hidden, mask_id))
    return masked, input_ids.masked_fill(~selected, IGNORED)


def _bernoulli(shape: torch.Size, probability: float, generator: torch.Generator | None) -> Tensor:
    return torch.bernoulli(torch.full(shape, probability), generator=generator).bool()


def crop_box(
    rng: np.random.RandomState,
    size: int,
    patch: int,
    area: tuple[float, float] = (0.3, 0.5),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> tuple[int, int, int, int]:
    """Draw a box (left, top, width, height) in pixels, on the patch grid of a square frame of side `size`.

    `area` is the range of the box area as a fraction of the frame; `aspect` is the range of height / width. Both are drawn
    first, then the sides are rounded down to whole patches. A box that does not fit is drawn again.
    Raises ConfigError if no box fits.
    """
    for _ in range(_TRIES):
        pixels = rng.uniform(*area) * size * size
        ratio = rng.uniform(*aspect)
        height = max(patch, _round_down(math.sqrt(pixels * ratio), patch))
        width = max(patch, _round_down(math.sqrt(pixels / ratio), patch))
        left, top = (_round_down(rng.randint(0, size), patch) for _ in range(2))
        if left + width <= size and top + height <= size:
            return left, top, width, height
    raise ConfigError(
        f"pem.crop_area {area} with crop_aspect {aspect}: no such box fits into a frame of {size} pixels; lower crop_area"
    )


def _round_down(value: float, step: int) -> int:
    return int(value) // step * step
