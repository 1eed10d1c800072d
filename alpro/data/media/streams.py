"""Opening of video files with PyAV: the stream that is read, strict decoding, and messages."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from alpro.errors import DataError
from alpro.files.listing import NOT_UTF8
from alpro.files.names import is_text

_IMPAIRED = 0x80 | 0x100  # FFmpeg dispositions HEARING_IMPAIRED | VISUAL_IMPAIRED
_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}


def check_file(path: Path) -> None:
    """Raise DataError if the path is not a readable file of at least one byte."""
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        missing = f"is a broken link (to {os.readlink(path)})" if os.path.islink(path) else "not found"
        raise DataError(f"{path}: {missing if isinstance(error, FileNotFoundError) else error.strerror}") from None
    except ValueError:
        raise DataError(f"{path}: its name has a NUL character") from None
    if not is_text(str(path)):
        raise DataError(f"{path}: {NOT_UTF8}")
    if empty:
        raise DataError(f"{path}: is empty (0 bytes)")
    if not path.is_file():
        raise DataError(f"{path}: is not a file")


def error_summary(error: BaseException) -> str:
    """Return the gist of an exception in one line, without the clock, source lines and stack trace of decord's errors."""
    text = getattr(error, "strerror", None) or str(error)
    text = re.sub(r"\[[\d:]+\] \S+:\d+: ?", "", text.split("Stack trace")[0])
    return " ".join(text.split())[:160]


def open_video(path: Path) -> Any:
    """Open a file to be read. Titles and comments need not be UTF-8, as those of old cameras are not. Raises av.FFmpegError."""
    import av

    old: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    return av.open(str(path), **old)


def video_stream(container: Any) -> Any:
    """Return the video stream that decord would choose: not a still image, then highest bit rate, then longest.

    This is the rule of the FFmpeg version inside decord; newer versions also prefer the stream marked as default.
    Raises DataError if there is no video stream, or no decoder for it.
    """
    if not container.streams.video:
        raise DataError("contains no video stream")
    decodable = [stream for stream in container.streams.video if stream.codec_context is not None]
    if not decodable:
        raise DataError("there is no decoder for its codec")
    stream = max(
        decodable,
        key=lambda s: (not int(s.disposition) & _IMPAIRED, min(5, s.frames), s.bit_rate or 0, s.frames, -s.index),
    )
    stream.thread_count = 1
    return stream


def strict_stream(container: Any, pixels: bool = True) -> Any:
    """Return the video stream with a decoder that stops at the first fault instead of concealing it.

    Without `pixels` it also saves the deblocking filter, which affects pixels but not faults. Raises as `video_stream`.
    """
    stream = video_stream(container)
    stream.codec_context.options = _STRICT if pixels else {**_STRICT, "skip_loop_filter": "all"}
    return stream
