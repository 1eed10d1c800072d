"""Decoding with TorchCodec, PyTorch's own decoder, if `loader.decoder` asks for it; it needs FFmpeg's libraries on the machine.

`torchcodec` decodes on the CPU, `nvdec` on an NVIDIA GPU, whose pixels differ in rounding.

TorchCodec reads the stream that decord would choose, and turns the frames upright like decord. Its pixels are decord's, except
those of videos with an odd size or with 10 bits; frames that are scaled differ in rounding, because they are scaled as RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from alpro.data.media.streams import error_summary, open_video, video_stream
from alpro.data.media.strict import Frames
from alpro.errors import ConfigError, DataError


@cache
def import_decoder() -> Any:
    """Return TorchCodec's class VideoDecoder. Raises ConfigError with the remedy if it, or FFmpeg, is not installed."""
    try:
        from torchcodec.decoders import VideoDecoder
    except ModuleNotFoundError as error:
        if error.name not in ("torchcodec", "torchcodec.decoders"):
            raise
        remedy = "run `pip install 'alpro[torchcodec]'`, or set loader.decoder to decord"
        raise ConfigError(f"loader.decoder: TorchCodec is not installed; {remedy}") from None
    except (ImportError, OSError, RuntimeError) as error:  # its libraries, or those of FFmpeg, cannot be loaded
        reason = error_summary(error).partition(". ")[0]
        remedy = "install FFmpeg (`apt-get install ffmpeg`) and the TorchCodec of the extra torchcodec, or use decord"
        raise ConfigError(f"loader.decoder: TorchCodec cannot be loaded ({reason}); {remedy}") from None
    return VideoDecoder


def check_nvdec() -> None:
    """Raise ConfigError if this machine has no NVIDIA GPU that could decode, or no TorchCodec."""
    import torch

    import_decoder()
    if not torch.cuda.is_available():
        raise ConfigError("loader.decoder: nvdec decodes on an NVIDIA GPU, and torch finds none here; use torchcodec or decord")


def read_with_torchcodec(path: Path, frames: Frames, indices: Sequence[int], size: int | None) -> np.ndarray:
    """Read frames with TorchCodec: (T, H, W, 3) uint8.

    Raises DataError if it can't read them or counts other frames than decode, ConfigError if it is not installed.
    """
    return _read(path, frames, indices, size, {"num_ffmpeg_threads": 1})


def read_with_nvdec(path: Path, frames: Frames, indices: Sequence[int], size: int | None) -> np.ndarray:
    """Read frames with TorchCodec on this process's GPU: (T, H, W, 3) uint8, on the host. Raises as `read_with_torchcodec`."""
    import torch

    check_nvdec()
    return _read(path, frames, indices, size, {"device": f"cuda:{torch.cuda.current_device()}"})


def _read(path: Path, frames: Frames, indices: Sequence[int], size: int | None, options: dict[str, Any]) -> np.ndarray:
    import av

    decoder = import_decoder()
    try:
        with open_video(path) as container:
            stream = video_stream(container).index
        reader = decoder(str(path), stream_index=stream, dimension_order="NHWC", seek_mode="exact", **options)
        if len(reader) != frames.count:
            raise DataError(f"it counts {len(reader)} frames, but {frames.count} decode")
        unique, inverse = np.unique(indices, return_inverse=True)
        pixels = reader.get_frames_at(unique.tolist()).data.cpu().numpy()
    except (av.FFmpegError, RuntimeError, ValueError, IndexError) as error:
        if "nsupported device" in str(error):  # TorchCodec's CPU build; no file would be read
            raise ConfigError("loader.decoder: this TorchCodec has no NVDEC; install its CUDA build, or use decord") from None
        raise DataError(error_summary(error)) from None
    if size:
        pixels = np.stack([_squeeze(frame, size) for frame in pixels])
    return frames.orientation.mirror(pixels if unique.tolist() == list(indices) else pixels[inverse])


def _squeeze(frame: np.ndarray, size: int) -> np.ndarray:
    """Scale a frame (H, W, 3) to (size, size, 3) with FFmpeg's bilinear scaler."""
    from av import VideoFrame

    scaled = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return scaled.reformat(size, size, "rgb24", interpolation="BILINEAR").to_ndarray()
