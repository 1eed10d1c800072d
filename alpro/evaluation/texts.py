"""Texts as token ids, and their features without padding. B texts of a batch, L tokens of the longest, D width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNK = 64  # texts encoded together; a constant, because it affects the rounding of the results


def token_ids(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Return the ids of each text with [CLS] and [SEP], cut to max_tokens."""
    return tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"] if texts else []


def padded_ids(ids: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the ids (B, L) padded with 0 to the longest text, and their mask (B, L), 1 = a token."""
    longest = max(len(row) for row in ids)
    filled = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids], device=device)
    lengths = torch.tensor([len(row) for row in ids], device=device)
    return filled, (torch.arange(longest, device=device) < lengths[:, None]).long()


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Group indices into chunks of `size` of similar length, so that little padding is computed."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [order[start : start + size] for start in range(0, len(order), size)]


class TextBank:
    """Features of texts, concatenated without padding."""

    def __init__(self, features: Sequence[np.ndarray], device: torch.device) -> None:
        """features: one array (tokens, D) per text."""
        lengths = [len(feature) for feature in features]
        self.lengths = torch.tensor(lengths, device=device)
        self.starts = torch.tensor([0, *np.cumsum(lengths)[:-1].tolist()], device=device)
        self.tokens = torch.from_numpy(np.concatenate(list(features))).to(device)

    def batch(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, L, D) and mask (B, L) of texts (B,), padded to the longest of them."""
        lengths = self.lengths[texts, None]
        positions = torch.arange(int(lengths.max()), device=texts.device)
        # Padding positions hold tokens of the next texts; the mask removes them from attention.
        index = (self.starts[texts, None] + positions).clamp_(max=len(self.tokens) - 1)
        return self.tokens[index], (positions < lengths).long()


def encoded(
    ids: Sequence[Sequence[int]], chunk: Sequence[int], encode: Callable[[Tensor, Tensor], Tensor], device: torch.device
) -> list[Tensor]:
    """Encode a chunk of texts together; return the features (tokens, D) of each."""
    filled, mask = padded_ids([ids[i] for i in chunk], device)
    return [feature[: len(ids[i])] for i, feature in zip(chunk, encode(filled, mask), strict=True)]
