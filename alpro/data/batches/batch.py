"""One batch of texts with their clips, as the loader passes it to a task. B texts, C clips, T frames, L text tokens."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch on one process. Its length is the number of texts.

    `ids` name the texts (`corpus/video#text`) in error messages and in the sample log; they are not used in
    computations. Text is padded to one length, on GPUs a multiple of 8.
    """

    corpus: str
    ids: list[str]
    pixels: Tensor  # (C, T, 3, H, W) uint8, RGB
    input_ids: Tensor  # (B, L) int64
    attention_mask: Tensor  # (B, L) int64, 1 for tokens, 0 for padding
    media: str = "video"  # or "image": one image repeated as frames
    mlm_input_ids: Tensor | None = None  # (B, L) with words replaced by masking
    mlm_labels: Tensor | None = None  # (B, L), -100 for tokens that are not predicted
    mlm_positions: Tensor | None = None  # (2, M) row and column of each of the M tokens that are predicted; None: not computed
    crop_boxes: Tensor | None = None  # (C, 4) left, top, width, height in pixels, on the patch grid
    labels: Tensor | None = None  # (B,) answer classes; -100 for an answer outside the list
    clips: Tensor | None = None  # (B,) row in `pixels` of each text's clip; None: text i belongs to clip i, and C = B

    def to(self, device: torch.device, non_blocking: bool = True) -> Batch:
        """Return the batch on a device."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=non_blocking)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def __len__(self) -> int:
        return len(self.ids)
