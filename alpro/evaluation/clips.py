"""What a model is shown in an evaluation: whole clips, and for its two ablations nothing, or one frame. T frames of side S."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from alpro.data.annotations.records import Record
from alpro.data.batches.clips import iter_clips, try_clips
from alpro.data.media.frames import Strategy
from alpro.errors import ConfigError, DataError

Look = Literal["full", "blind", "one_frame"]
_MIDDLE: Strategy = "uniform"  # of a single frame


@dataclass(frozen=True, slots=True)
class Viewer:
    """Reads records' clips, each once and in order, squeezed to squares, without augmentation."""

    num_frames: int
    strategy: Strategy
    image_size: int
    look: Look = "full"  # blind: every pixel 0; one_frame: the middle frame of the clip, repeated
    workers: int = 1  # threads that read ahead
    decode_size: int | None = None  # side at which frames are decoded before the middle is cut out; None: image_size

    def __post_init__(self) -> None:
        if self.strategy == "random":
            raise ConfigError("eval_frames 'random': an evaluation draws no frames; use uniform")

    @property
    def same_for_all(self) -> bool:
        """Whether every video looks the same."""
        return self.look == "blind"

    def clips(self, records: Sequence[Record]) -> Iterator[Tensor]:
        """Frames (T, 3, S, S) uint8 of each record. Raises DataError that lists the files that can't be read."""
        shape = (self.num_frames, 3, self.image_size, self.image_size)
        if self.look == "blind":
            yield from (torch.zeros(shape, dtype=torch.uint8) for _ in records)
            return
        # the middle of a single segment is the middle of the clip; no frame of several need be
        count, strategy = (1, _MIDDLE) if self.look == "one_frame" else (self.num_frames, self.strategy)
        size = self.decode_size
        for _, clip in iter_clips(records, count, strategy, self.image_size, self.workers, decode_size=size):
            yield clip.expand(shape)

    def try_clips(self, records: Sequence[Record]) -> Iterator[Tensor | DataError]:
        """As `clips` with the full look, and the fault in a clip's place where a file can't be read."""
        found = try_clips(records, self.num_frames, self.strategy, self.image_size, self.workers, decode_size=self.decode_size)
        return (clip for _, clip in found)
