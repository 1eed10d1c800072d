"""Decoding with decord, or with PyAV for files that decord cannot read (AV1, VP8 with one frame) or would misplace.

PyAV uses decord's stream choice and filters, so both give the same upright pixels. A file that neither reads is a
DataError; no frame is ever substituted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alpro.data.media.orientation import Orientation, orientation_of
from alpro.data.media.streams import error_summary, open_video, strict_stream
from alpro.data.media.strict import Frames
from alpro.errors import DataError

# decord counts the frames that it could not decode and repeats a neighbour for each; it raises from the first one on.
# Its number 0 means "any number", so this is a tiny part of all frames, and a text, because it does not read "1e-09".
_NONE_REPEATED = "0.000000001"


# --- decord -----------------------------------------------------------------------------------------------


def import_decord() -> Any:
    """Return the `decord` module with its log silenced."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord


def read_with_decord(path: Path, frames: Frames, indices: Sequence[int], size: int | None) -> np.ndarray:
    """Read frames with decord: (T, H, W, 3) uint8. Raises DataError if it can't read them, or would misplace them."""
    if not frames.by_decord:
        raise DataError("it would misplace frames of this file")
    decord = import_decord()
    side = size or -1
    try:
        reader = decord.VideoReader(str(path), width=side, height=side, num_threads=1, fault_tol=_NONE_REPEATED)
        if len(reader) != frames.count:
            raise DataError(f"it counts {len(reader)} frames, but {frames.count} decode")
        unique, inverse = np.unique(indices, return_inverse=True)
        pixels = reader.get_batch(unique.tolist()).asnumpy()
    except (RuntimeError, IndexError, AssertionError, decord.DECORDError, decord.DECORDLimitReachedError) as error:
        raise DataError(error_summary(error)) from None
    return frames.orientation.mirror(pixels if unique.tolist() == list(indices) else pixels[inverse])


# --- PyAV -------------------------------------------------------------------------------------------------


def read_with_pyav(path: Path, frames: Frames, indices: Sequence[int], size: int | None) -> np.ndarray:
    """Read frames with PyAV: (T, H, W, 3) uint8. Raises DataError at the first frame that does not decode."""
    import av

    unique, inverse = np.unique(indices, return_inverse=True)
    requested = set(unique.tolist())
    pixels: list[np.ndarray] = []
    decoded = 0
    try:
        with open_video(path) as container:
            for index, frame, to_pixels in _decode(container, strict_stream(container), size):
                decoded = index + 1
                if index in requested:
                    pixels.append(to_pixels(frame))
                    if len(pixels) == len(requested):
                        break
    except (av.FFmpegError, ValueError) as error:
        raise DataError(error_summary(error)) from None
    if len(pixels) < len(requested):
        raise DataError(f"only {decoded} of {frames.count} frames can be decoded")
    return frames.orientation.mirror(np.stack(pixels)[inverse])


def _decode(container: Any, stream: Any, size: int | None) -> Iterator[tuple[int, Any, Callable[[Any], np.ndarray]]]:
    """Yield (index, frame, to_pixels); `to_pixels` turns, scales and converts a frame exactly as decord does."""
    graphs: dict[tuple[int, int, str], Any] = {}
    shape: list[tuple[int, int]] = []

    def to_pixels(frame: Any) -> np.ndarray:
        key = (frame.width, frame.height, frame.format.name)
        orientation = orientation_of(frame)
        if not shape:  # the size of the first frame holds for all
            sides = (frame.height, frame.width) if orientation.swaps_sides else (frame.width, frame.height)
            shape.append((size, size) if size else sides)
        if key not in graphs:
            graphs[key] = scaling_graph(stream, frame, orientation, "{}:{}:flags=bilinear".format(*shape[0]), "rgb24")
        graphs[key].push(frame)
        return graphs[key].pull().to_ndarray()

    for index, frame in enumerate(container.decode(stream)):
        yield index, frame, to_pixels


def scaling_graph(
    stream: Any, frame: Any, orientation: Orientation, scale: str, pixel_format: str, mirror: bool = False
) -> Any:
    """Return a filter graph for frames like `frame`: quarter turns, with `mirror` also the flip, scaling, pixel format."""
    import av

    graph = av.filter.Graph()
    source = graph.add_buffer(template=stream, width=frame.width, height=frame.height, format=frame.format)
    filters = [source, *(graph.add("transpose", turn) for turn in orientation.turns)]
    if mirror and orientation.flip:
        filters.append(graph.add(orientation.flip))
    filters += [graph.add("scale", scale), graph.add("format", pixel_format), graph.add("buffersink")]
    graph.link_nodes(*filters).configure()
    return graph
