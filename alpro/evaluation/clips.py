"""Reads clips for evaluation: the full clip or, for ablations, its middle frame repeated or black frames.

T: frames, S: frame side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from alpro.config import Training
from alpro.data.annotations.records import Record
from alpro.data.batches.frame_cache import FrameCache
from alpro.data.batches.ordered_clips import iter_clips, try_clips
from alpro.data.media.frames import Strategy
from alpro.data.media.read import Decoder
from alpro.errors import ConfigError, DataError

VideoMode = Literal["full", "one_frame", "blind"]  # the clip, its middle frame repeated, or black pixels
VIDEO_MODES: tuple[VideoMode, ...] = ("full", "one_frame", "blind")
_MIDDLE: Strategy = "uniform"  # `uniform` sampling of one frame selects the middle frame


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Preprocessing of clips and texts in an evaluation, and the model's precision."""

    num_frames: int
    image_size: int
    max_text_tokens: int
    frames_strategy: Strategy = "uniform"
    precision: str = "fp32"
    decode_size: int | None = None  # side of decoded frames before the center crop; None: image_size
    decoder: Decoder = "decord"
    cache: FrameCache | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_training(
        cls, training: Training, image_size: int, cache: FrameCache | None = None, decoder: Decoder = "decord"
    ) -> Preprocessing:
        """Return the evaluation preprocessing for a model trained with these settings."""
        return cls(
            num_frames=training.num_frames,
            image_size=image_size,
            max_text_tokens=training.max_text_tokens,
            frames_strategy=training.eval_frames,
            precision=training.precision,
            decode_size=training.decode_size,
            decoder=decoder,
            cache=cache,
        )

    def reader(self, mode: VideoMode = "full") -> ClipReader:
        """Return the reader of clips with this preprocessing."""
        options: dict[str, Any] = {"decode_size": self.decode_size, "decoder": self.decoder, "cache": self.cache}
        return ClipReader(self.num_frames, self.frames_strategy, self.image_size, mode, **options)


@dataclass(frozen=True, slots=True)
class ClipReader:
    """Reader of records' clips: each once, in order, resized to squares, without augmentation."""

    num_frames: int
    strategy: Strategy
    image_size: int
    mode: VideoMode = "full"
    workers: int = 1  # threads that read ahead
    decode_size: int | None = None  # side of decoded frames before the center crop; None: image_size
    decoder: Decoder = "decord"
    cache: FrameCache | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.strategy == "random":
            raise ConfigError("eval_frames 'random': an evaluation draws no random frames; use uniform")

    @property
    def is_blind(self) -> bool:
        """True if all clips are equal (black)."""
        return self.mode == "blind"

    def clips(self, records: Sequence[Record]) -> Iterator[Tensor]:
        """Yield the frames (T, 3, S, S) uint8 of each record. Raises DataError that lists the unreadable files."""
        shape = (self.num_frames, 3, self.image_size, self.image_size)
        if self.mode == "blind":
            yield from (torch.zeros(shape, dtype=torch.uint8) for _ in records)
            return
        # Sample one frame separately: the middle one of several uniform frames is not always the middle of the clip.
        one_frame = self.mode == "one_frame"
        count, strategy = (1, _MIDDLE) if one_frame else (self.num_frames, self.strategy)
        for _, clip in iter_clips(records, count, strategy, self.image_size, self.workers, **self._options()):
            yield clip.expand(shape)

    def try_full_clips(self, records: Sequence[Record]) -> Iterator[Tensor | DataError]:
        """Yield each record's full clip (T, 3, S, S) uint8, or the error if its file can't be read."""
        clips = try_clips(records, self.num_frames, self.strategy, self.image_size, self.workers, **self._options())
        return (clip for _, clip in clips)

    def _options(self) -> dict[str, Any]:
        return {"decode_size": self.decode_size, "decoder": self.decoder, "cache": self.cache}
