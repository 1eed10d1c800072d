"""Reading of frames from a video and of images, from loose files or from shards."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alpro.data.media.containers import missing_bytes
from alpro.data.media.decoders import read_with_decord, read_with_pyav
from alpro.data.media.frames import Strategy, frame_indices
from alpro.data.media.known import known_frames
from alpro.data.media.probe import probe
from alpro.data.media.shards import accept_shard_paths
from alpro.data.media.streams import check_file, error_summary
from alpro.data.media.strict import Frames, check_frames
from alpro.data.media.with_torchcodec import read_with_nvdec, read_with_torchcodec
from alpro.errors import DataError

Decoder = Literal["decord", "pyav", "torchcodec", "nvdec"]
Reader = Callable[[Path, Frames, Sequence[int], int | None], np.ndarray]
# Each decoder, followed by the one that reads the files that it cannot.
READERS: dict[Decoder, dict[Decoder, Reader]] = {
    "decord": {"decord": read_with_decord, "pyav": read_with_pyav},
    "pyav": {"pyav": read_with_pyav},
    "torchcodec": {"torchcodec": read_with_torchcodec, "pyav": read_with_pyav},
    "nvdec": {"nvdec": read_with_nvdec, "pyav": read_with_pyav},
}


def read_frames(
    path: str | Path,
    frames: int | Sequence[int] | Callable[[int], list[int]],
    size: int | None,
    strategy: Strategy = "uniform",
    rng: random.Random | None = None,
    decoder: Decoder = "decord",
    *,
    alone: bool = False,
) -> np.ndarray:
    """Read frames of a video, turned upright: (T, size, size, 3) uint8 RGB.

    `frames` is the number of frames to select by `strategy`, or the indices themselves, or a function that selects them
    from the number of frames in the file. `size` squeezes each frame to a square while decoding, as the released code
    does; None keeps the file's own size. Files that `decoder` cannot read are read by PyAV, unless it is to read `alone`.
    Raises DataError with file and reason if a frame of the video does not decode, or the file was cut short; see
    `strict.check_frames`. A file that a probe has checked is not checked again (`known`).
    """
    readers = {decoder: READERS[decoder][decoder]} if alone else READERS[decoder]
    return _read_frames(path, frames, size, strategy, rng, readers, known_frames(path))


@accept_shard_paths
def _read_frames(
    path: str | Path,
    frames: int | Sequence[int] | Callable[[int], list[int]],
    size: int | None,
    strategy: Strategy,
    rng: random.Random | None,
    readers: dict[Decoder, Reader],
    known: Frames | None,
) -> np.ndarray:
    path = Path(path)
    check_file(path)
    if known is None and missing_bytes(path):
        info = probe(path, digest=False)
        if not info.readable:
            raise DataError(f"{path}: {info.reason}")

    def choose(total: int) -> list[int]:
        if isinstance(frames, int):
            return frame_indices(total, frames, strategy, rng)
        if callable(frames):
            return frames(total)
        if len(frames) == 0 or not 0 <= min(frames) <= max(frames) < total:
            raise DataError(f"frames {list(frames)} were requested, but the video has {total}")
        return list(frames)

    try:
        found, indices = (known, choose(known.count)) if known else check_frames(path, choose)
    except DataError as error:
        raise DataError(f"{path}: can't be read ({error})") from None
    reasons = []
    for name, read in readers.items():
        try:
            return read(path, found, indices, size)
        except DataError as error:
            reasons.append(f"{name}: {error}")
    raise DataError(f"{path}: can't be read ({'; '.join(reasons)})")


@accept_shard_paths
def read_image(path: str | Path) -> Any:
    """Read an image file as PIL.Image in RGB, turned as its EXIF says; of 16 bits of grey, the upper 8 are kept.

    Raises DataError with file and reason.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    check_file(path)
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey; Pillow would turn all above 255 white
                upright = Image.fromarray((np.asarray(upright, np.int32) >> 8).clip(0, 255).astype(np.uint8))
            return upright.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({error_summary(error)})") from None
