"""Reproducible encoding: one encoder thread, no dates and no library versions, so any number of cores gives equal bytes."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from alpro.data.sample.film import FRAMES_PER_SECOND

# Without x264's lookahead, whose decisions on very small frames differ between runs.
_CODECS = {
    ".mp4": (
        "libx264",
        {"preset": "veryfast", "crf": "18", "threads": "1", "x264-params": "rc-lookahead=0:mbtree=0:weightp=0"},
    ),
    ".avi": ("mpeg4", {"qscale": "3", "threads": "1"}),
}


def write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    """Encode (T, H, W, 3) RGB frames: `.mp4` as H.264, `.avi` as MPEG-4 part 2."""
    import av
    from av.codec.context import Flags
    from av.video.reformatter import VideoReformatter

    codec, options = _CODECS[path.suffix]
    reformatter = VideoReformatter()
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = cast("av.VideoStream", container.add_stream(codec, rate=FRAMES_PER_SECOND, options=options))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, FRAMES_PER_SECOND)
        stream.codec_context.flags |= Flags.bitexact
        if codec == "mpeg4":
            stream.codec_context.qmin = stream.codec_context.qmax = 3
        for index, pixels in enumerate(frames):
            frame = reformatter.reformat(av.VideoFrame.from_ndarray(pixels, format="rgb24"), format="yuv420p", threads=1)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Encode (H, W, 3) RGB pixels as JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    path.write_bytes(buffer.getvalue())
