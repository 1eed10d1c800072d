"""Frames of one clip as a sample needs them: selected, decoded or from the cache, cropped.

Letters: T frames, H and W pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alpro.config import CorpusTraining, Model, RandAugment, Training
from alpro.data.annotations.records import Record
from alpro.data.batches import augment
from alpro.data.batches.frame_cache import FrameCache, read_cached
from alpro.data.media.frames import DRAWN, Strategy, candidate_indices, frame_indices
from alpro.data.media.read import Decoder, read_frames, read_image

_IMAGE_RANDAUGMENT = RandAugment(operations=2, magnitude=7)  # for the images of pre-training (released code)


@dataclass(frozen=True, slots=True)
class View:
    """Frame selection, sizes and augmentation of a sample."""

    num_frames: int
    size: int  # side in pixels of the frames that the model sees
    frames: Strategy
    decode_size: int | None = None  # side at which frames are decoded, before the crop; None: `size`
    randaugment: RandAugment | None = None
    train: bool = True  # True: random crops; False: center crops
    augment_images: bool = True  # in training; if False, images are squeezed to the size, as in evaluation
    candidates: int | None = None  # draw from this many evenly spaced frames; None: from all frames of the clip
    decoder: Decoder = "decord"

    def augments(self, media: str) -> bool:
        """Return True if samples of this medium are cropped or augmented at random."""
        if media == "image":
            return self.train and self.augment_images
        return self.train and (self.randaugment is not None or (self.decode_size or self.size) > self.size)

    @property
    def clip_bytes(self) -> int:
        """The bytes of one clip's pixels."""
        return self.num_frames * 3 * self.size**2

    @classmethod
    def training(cls, training: Training, model: Model, decoder: Decoder = "decord") -> View:
        """Return the view of a training in params.yaml."""
        return cls(
            training.num_frames,
            model.image_size,
            training.train_frames,
            training.decode_size,
            training.randaugment,
            augment_images=not isinstance(training, CorpusTraining) or training.augment_images,
            candidates=training.frame_candidates,
            decoder=decoder,
        )

    @classmethod
    def evaluation(cls, training: Training, model: Model, decoder: Decoder = "decord") -> View:
        """Return the same training's view of its validation split."""
        frames, size = training.eval_frames, training.decode_size
        return cls(training.num_frames, model.image_size, frames, size, train=False, decoder=decoder)


def load_video_frames(
    record: Record,
    view: View,
    frames_rng: random.Random,
    crop_rng: np.random.RandomState | None,
    cache: FrameCache | None = None,
) -> Tensor:
    """Load the frames of a video: (T, 3, size, size) uint8. Frames that were decoded larger are cropped. Raises DataError."""
    frames = torch.from_numpy(_video_pixels(record.path, view, frames_rng, cache))
    if frames.shape[-1] > view.size:
        if view.train and crop_rng:
            frames = augment.random_crop(frames, view.size, crop_rng)
        else:
            frames = augment.center_crop(frames, view.size)
    return frames.contiguous()


def _video_pixels(path: Path, view: View, rng: random.Random, cache: FrameCache | None) -> np.ndarray:
    """Return the selected frames of a video at the size at which they are decoded: (T, 3, S, S) uint8."""
    side, count, drawn = view.decode_size or view.size, view.num_frames, view.frames in DRAWN

    def decode(frames: int | Callable[[int], list[int]]) -> np.ndarray:
        pixels = read_frames(path, frames, side, view.frames, rng, view.decoder)
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    if not drawn:
        return read_cached(cache, path, f"{count} frames {view.frames}, {side} px, {view.decoder}", lambda: decode(count))
    if view.candidates is None:
        return decode(count)  # other frames in each epoch: not cached
    candidates = partial(candidate_indices, count=view.candidates)
    # All candidates are decoded even without a cache, so that no frame can depend on the others read with it.
    return read_cached(
        cache,
        path,
        f"{view.candidates} candidates, {side} px, {view.decoder}",
        lambda: decode(candidates),
        lambda total: frame_indices(total, count, view.frames, rng),
    )


def load_image_frame(record: Record, view: View, rng: np.random.RandomState | None, cache: FrameCache | None = None) -> Tensor:
    """Load an image as one frame: (1, 3, size, size) uint8. Without `rng` nothing is augmented. Raises DataError."""
    if not (view.train and view.augment_images and rng):

        def decode() -> np.ndarray:
            return augment.resize_image(read_image(record.path), view.size).numpy()

        return torch.from_numpy(read_cached(cache, record.path, f"image, {view.size} px", decode))
    frame = augment.random_resized_crop(read_image(record.path), view.size, rng)
    if rng.uniform() < 0.5:
        frame = frame.flip(-1)
    if view.randaugment:
        frame = augment.randaugment_image(frame, _IMAGE_RANDAUGMENT.operations, _IMAGE_RANDAUGMENT.magnitude, rng)
    return frame
