"""What pre-training hides: words for MLM, and the crop that PEM's prompter sees (paper, sections 3.2 and 3.3)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from alpro.errors import ConfigError

IGNORED = -100  # the label of what is not to be predicted; cross-entropy's default
_TRIES = 1000


def mask_tokens(
    input_ids: Tensor,  # (B, L) int64
    special: Tensor,  # (B, L) bool: [CLS], [SEP], [PAD] are never masked
    mask_id: int,
    vocab_size: int,
    probability: float,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """BERT's masking: each word with `probability`; of those 80 % become [MASK], 10 % any word, 10 % stay.

    Returns the masked ids and the labels, both (B, L); labels are -100 where nothing was chosen.
    Source: Devlin et al., BERT, section 3.1; the draws come in the released code's order.
    """
    chosen = _coin(input_ids.shape, probability, generator) & ~special
    hidden = _coin(input_ids.shape, 0.8, generator) & chosen
    swapped = _coin(input_ids.shape, 0.5, generator) & chosen & ~hidden
    words = torch.randint(vocab_size, input_ids.shape, dtype=torch.long, generator=generator)
    masked = torch.where(swapped, words, input_ids.masked_fill(hidden, mask_id))
    return masked, input_ids.masked_fill(~chosen, IGNORED)


def _coin(shape: torch.Size, probability: float, generator: torch.Generator | None) -> Tensor:
    return torch.bernoulli(torch.full(shape, probability), generator=generator).bool()


def crop_box(
    rng: np.random.RandomState,
    size: int,
    patch: int,
    area: tuple[float, float] = (0.3, 0.5),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> tuple[int, int, int, int]:
    """A box (left, top, width, height), in pixels, of `area` of a square frame, on the grid of patches.

    Area and aspect are drawn before the sides are cut down to whole patches; a box that does not fit is drawn anew.
    Raises ConfigError when no box of that kind fits.
    """
    for _ in range(_TRIES):
        pixels = rng.uniform(*area) * size * size
        ratio = rng.uniform(*aspect)
        height = max(patch, _down(math.sqrt(pixels * ratio), patch))
        width = max(patch, _down(math.sqrt(pixels / ratio), patch))
        left, top = (_down(rng.randint(0, size), patch) for _ in range(2))
        if left + width <= size and top + height <= size:
            return left, top, width, height
    raise ConfigError(f"pem.crop_area {area} with crop_aspect {aspect}: no such box fits into {size} pixels; make it smaller")


def _down(value: float, step: int) -> int:
    return int(value) // step * step
