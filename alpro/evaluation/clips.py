"""The frames on which a model is evaluated, and its two ablations: nothing to see, and one frame. T frames of side S."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from alpro.data.records import Record
from alpro.data.video import read_frames, read_image
from alpro.errors import ConfigError

Strategy = Literal["uniform", "uniform_floor", "headtail"]
Look = Literal["full", "blind", "one_frame"]


@dataclass(frozen=True, slots=True)
class Clips:
    """Reads a record's clip for evaluation: whole frames, squeezed to squares, without augmentation."""

    num_frames: int
    strategy: Strategy
    image_size: int
    look: Look = "full"  # blind: every pixel 0; one_frame: the middle frame of the clip, repeated

    def __post_init__(self) -> None:
        if self.strategy not in ("uniform", "uniform_floor", "headtail"):
            raise ConfigError(f"eval_frames {self.strategy!r}: an evaluation draws no frames at random; use uniform")

    @property
    def same_for_all(self) -> bool:
        """Whether every video looks the same."""
        return self.look == "blind"

    def __call__(self, record: Record) -> Tensor:
        """Frames (T, 3, S, S) uint8. Raises DataError when the file can't be read."""
        shape = (self.num_frames, 3, self.image_size, self.image_size)
        if self.look == "blind":
            return torch.zeros(shape, dtype=torch.uint8)
        frames = self._still(record) if record.media == "image" else self._video(record)
        clip = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))
        return clip[self.num_frames // 2].expand(shape) if self.look == "one_frame" else clip.expand(shape)

    def _video(self, record: Record) -> np.ndarray:
        if self.strategy != "headtail":
            return read_frames(record.path, self.num_frames, self.image_size, self.strategy)
        import random

        # Drawn frames, the same in every evaluation: the seed is the video's name.
        return read_frames(record.path, self.num_frames, self.image_size, self.strategy, random.Random(record.id))

    def _still(self, record: Record) -> np.ndarray:
        return np.asarray(read_image(record.path).resize((self.image_size, self.image_size)))[None]
