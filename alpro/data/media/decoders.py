"""Decoding with decord, or with PyAV for files that decord cannot read (AV1, VP8 with one frame).

PyAV uses decord's stream choice and filters, so both give the same upright pixels. A file that neither reads is a
DataError; no frame is ever substituted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alpro.data.media.containers import hides_frames
from alpro.errors import DataError

_IMPAIRED = 0x80 | 0x100  # FFmpeg dispositions HEARING_IMPAIRED | VISUAL_IMPAIRED


def check_file(path: Path) -> None:
    """Raise DataError if the path is not a readable file of at least one byte."""
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        raise DataError(f"{path}: {'not found' if isinstance(error, FileNotFoundError) else error.strerror}") from None
    if empty:
        raise DataError(f"{path}: is empty (0 bytes)")
    if not path.is_file():
        raise DataError(f"{path}: is not a file")


def error_summary(error: BaseException) -> str:
    """Return the gist of an exception in one line, without the clock, source lines and stack trace of decord's errors."""
    text = getattr(error, "strerror", None) or str(error)
    text = re.sub(r"\[[\d:]+\] \S+:\d+: ?", "", text.split("Stack trace")[0])
    return " ".join(text.split())[:160]


# --- decord -----------------------------------------------------------------------------------------------


def import_decord() -> Any:
    """Return the `decord` module with its log silenced."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord


def read_with_decord(path: Path, choose: Callable[[int], list[int]], size: int | None) -> np.ndarray:
    """Read the frames `choose(total)` with decord: (T, H, W, 3) uint8.

    In files with open GOPs (common in HEVC) decord's seek may return a frame one or two positions off. The released
    results were computed this way.
    """
    decord = import_decord()
    side = size or -1
    try:
        refuse_hidden_frames(path)
        reader = decord.VideoReader(str(path), width=side, height=side, num_threads=1)
        indices = choose(len(reader))
        unique, inverse = np.unique(indices, return_inverse=True)
        pixels = reader.get_batch(unique.tolist()).asnumpy()
    except (RuntimeError, IndexError, decord.DECORDError) as error:
        raise DataError(error_summary(error)) from None
    return pixels if len(unique) == len(indices) else pixels[inverse]


def refuse_hidden_frames(path: Path) -> None:
    """Raise DataError if an edit list hides frames: decord would count them."""
    if hides_frames(path):
        raise DataError("its edit list hides frames, which decord would count")


# --- PyAV -------------------------------------------------------------------------------------------------


def read_with_pyav(path: Path, choose: Callable[[int], list[int]], size: int | None) -> np.ndarray:
    """Read the frames `choose(total)` with PyAV: (T, H, W, 3) uint8."""
    import av

    try:
        with av.open(str(path)) as container:
            total = sum(1 for packet in container.demux(video_stream(container)) if packet.size and not packet.is_discard)
        indices = choose(total)
        unique, inverse = np.unique(indices, return_inverse=True)
        requested = set(unique.tolist())
        pixels: list[np.ndarray] = []
        last, decoded = None, 0
        with av.open(str(path)) as container:
            stream = video_stream(container)
            for index, frame, to_pixels in _decode(container, stream, size):
                last, decoded = frame, index + 1
                if index in requested:
                    pixels.append(to_pixels(frame))
                    if len(pixels) == len(requested):
                        break
            if len(pixels) == len(requested) - 1 and decoded == total - 1 and last is not None:
                pixels.append(to_pixels(last))  # a container may count one frame more than it holds
    except (av.FFmpegError, ValueError) as error:
        raise DataError(error_summary(error)) from None
    if len(pixels) < len(requested):
        raise DataError(f"only {decoded} of {total} frames can be decoded")
    return np.stack(pixels)[inverse]


def video_stream(container: Any) -> Any:
    """Return the video stream that decord would choose: not a still image, then highest bit rate, then longest.

    This is the rule of the FFmpeg version inside decord; newer versions also prefer the stream marked as default.
    Raises DataError if there is no video stream.
    """
    if not container.streams.video:
        raise DataError("contains no video stream")
    stream = max(
        container.streams.video,
        key=lambda s: (not int(s.disposition) & _IMPAIRED, min(5, s.frames), s.bit_rate or 0, s.frames, -s.index),
    )
    stream.thread_count = 1
    return stream


def quarter_turns(frame: Any) -> list[str]:
    """Return the quarter turns that bring a frame upright, as arguments of FFmpeg's `transpose` filter."""
    return {0: [], 1: ["cclock"], 2: ["clock", "clock"], 3: ["clock"]}[round(frame.rotation / 90) % 4]


def _decode(container: Any, stream: Any, size: int | None) -> Iterator[tuple[int, Any, Callable[[Any], np.ndarray]]]:
    """Yield (index, frame, to_pixels); `to_pixels` turns, scales and converts a frame exactly as decord does."""
    import av

    graph = None

    def to_pixels(frame: Any) -> np.ndarray:
        nonlocal graph
        if graph is None:
            graph = av.filter.Graph()
            filters = [graph.add_buffer(template=stream), *(graph.add("transpose", turn) for turn in quarter_turns(frame))]
            side = f"{size}:{size}" if size else "iw:ih"
            filters += [graph.add("scale", f"{side}:flags=bilinear"), graph.add("format", "rgb24"), graph.add("buffersink")]
            graph.link_nodes(*filters).configure()
        graph.push(frame)
        return graph.pull().to_ndarray()

    for index, frame in enumerate(container.decode(stream)):
        yield index, frame, to_pixels
