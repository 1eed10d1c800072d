"""From a video file to frames: which ones (paper, section 4.1), and how they are decoded.

decord reads; PyAV reads what decord can't (AV1, one-frame VP8), through the filters that decord uses, so that both
give the same pixels of the same stream, turned as the file says. What neither reads is a DataError, never a substitute.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alpro.data.media.containers import hides_frames
from alpro.errors import DataError

_IMPAIRED = 0x80 | 0x100  # streams for those who hear or see little


def _check_file(path: Path) -> None:
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        raise DataError(f"{path}: {'not found' if isinstance(error, FileNotFoundError) else error.strerror}") from None
    if empty:
        raise DataError(f"{path}: is empty (0 bytes)")
    if not path.is_file():
        raise DataError(f"{path}: is no file")


def _decord() -> Any:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _read_decord(path: Path, choose: Callable[[int], list[int]], size: int | None) -> np.ndarray:
    """decord's frames. Where a key frame is followed by frames shown before it (open GOPs, as HEVC's) its seek may land
    a frame or two beside the one asked for; the released figures were made so."""
    decord = _decord()
    side = size or -1
    try:
        _refuse_hidden(path)
        reader = decord.VideoReader(str(path), width=side, height=side, num_threads=1)
        indices = choose(len(reader))
        unique, back = np.unique(indices, return_inverse=True)
        pixels = reader.get_batch(unique.tolist()).asnumpy()
    except (RuntimeError, IndexError, decord.DECORDError) as error:
        raise DataError(_one_line(error)) from None
    return pixels if len(unique) == len(indices) else pixels[back]


def _refuse_hidden(path: Path) -> None:
    if hides_frames(path):
        raise DataError("its edit list hides frames, which decord would count")


def _read_pyav(path: Path, choose: Callable[[int], list[int]], size: int | None) -> np.ndarray:
    import av

    try:
        with av.open(str(path)) as container:
            total = sum(1 for packet in container.demux(video_stream(container)) if packet.size and not packet.is_discard)
        indices = choose(total)
        unique, back = np.unique(indices, return_inverse=True)
        wanted = set(unique.tolist())
        found: list[np.ndarray] = []
        last, seen = None, 0
        with av.open(str(path)) as container:
            stream = video_stream(container)
            for index, frame, shown in _shown(container, stream, size):
                last, seen = frame, index + 1
                if index in wanted:
                    found.append(shown(frame))
                    if len(found) == len(wanted):
                        break
            if len(found) == len(wanted) - 1 and seen == total - 1 and last is not None:
                found.append(shown(last))  # a container may count one frame more than it holds
    except (av.FFmpegError, ValueError) as error:
        raise DataError(_one_line(error)) from None
    if len(found) < len(wanted):
        raise DataError(f"{seen} frames decode, {total} are there")
    return np.stack(found)[back]


def video_stream(container: Any) -> Any:
    """The video stream that decord takes too: more than a still, of the highest bit rate, the longest.

    So chooses the FFmpeg inside decord; PyAV's newer one also asks which stream is marked as default.
    """
    if not container.streams.video:
        raise DataError("holds no video stream")
    stream = max(
        container.streams.video,
        key=lambda s: (not int(s.disposition) & _IMPAIRED, min(5, s.frames), s.bit_rate or 0, s.frames, -s.index),
    )
    stream.thread_count = 1
    return stream


def _shown(container: Any, stream: Any, size: int | None) -> Iterator[tuple[int, Any, Callable[[Any], np.ndarray]]]:
    """Frame by frame: its index, the frame, and what turns, scales and converts it exactly as decord does."""
    import av

    graph = None

    def shown(frame: Any) -> np.ndarray:
        nonlocal graph
        if graph is None:
            graph = av.filter.Graph()
            filters = [graph.add_buffer(template=stream), *(graph.add("transpose", way) for way in turns(frame))]
            side = f"{size}:{size}" if size else "iw:ih"
            filters += [graph.add("scale", f"{side}:flags=bilinear"), graph.add("format", "rgb24"), graph.add("buffersink")]
            graph.link_nodes(*filters).configure()
        graph.push(frame)
        return graph.pull().to_ndarray()

    for index, frame in enumerate(container.decode(stream)):
        yield index, frame, shown


def turns(frame: Any) -> list[str]:
    """The quarter turns, as FFmpeg's `transpose` calls them, that bring a frame upright."""
    return {0: [], 1: ["cclock"], 2: ["clock", "clock"], 3: ["clock"]}[round(frame.rotation / 90) % 4]


def _one_line(error: BaseException) -> str:
    """The gist of an exception, the same each time: decord's hold a clock, source lines and a C++ stack trace."""
    text = getattr(error, "strerror", None) or str(error)
    text = re.sub(r"\[[\d:]+\] \S+:\d+: ?", "", text.split("Stack trace")[0])
    return " ".join(text.split())[:160]
