"""From a video file to frames: which ones (paper, section 4.1), and how they are decoded.

decord reads; PyAV reads what decord can't (AV1, one-frame VP8), through the filters that decord uses, so that both
give the same pixels of the same stream, turned as the file says. What neither reads is a DataError, never a substitute.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alpro.data.containers import hides_frames, missing_bytes
from alpro.data.shards import as_file, from_shards, shard_of
from alpro.errors import DataError
from alpro.files import sha256

Strategy = Literal["uniform", "uniform_floor", "random", "headtail"]
Decoder = Literal["decord", "pyav"]
_PROBE_SIDE = 32  # a probe looks whether frames decode, not at them
_PROBE_CHUNK = 128
_IMPAIRED = 0x80 | 0x100  # streams for those who hear or see little


# --- which frames -----------------------------------------------------------------------------------------


def frame_indices(total: int, count: int, strategy: Strategy, rng: random.Random | None = None) -> list[int]:
    """Which `count` of `total` frames are read, in order of time.

    - `uniform`: the centre of each of `count` equal segments of the clip.
    - `uniform_floor`: i * floor(total / count), as the released code: it misses the clip's end.
    - `random`: without replacement, sorted.
    - `headtail`: one half drawn from each half of the clip (the first half gives the odd one).

    Where frames are fewer than wanted (in a half, for `headtail`), each is repeated as evenly as possible: the
    rule of `uniform`, applied to what is there. `rng` is needed by the two that draw.
    Raises DataError when there is no frame at all.
    """
    if total < 1:
        raise DataError("the video has no frames")
    if strategy == "uniform":
        return _spread(0, total, count)
    if strategy == "uniform_floor":
        return [i * (total // count) for i in range(count)]
    if rng is None:
        raise ValueError(f"{strategy!r} draws frames and needs a random source")
    if strategy == "random":
        return _draw(0, total, count, rng)
    if strategy == "headtail":
        half = total // 2
        tail = count // 2
        head = _draw(0, half, count - tail, rng) if half else [0] * (count - tail)
        return head + _draw(half, total, tail, rng)
    raise ValueError(f"no such strategy: {strategy!r}")


def _spread(start: int, stop: int, count: int) -> list[int]:
    length = stop - start
    return [start + (2 * i + 1) * length // (2 * count) for i in range(count)]


def _draw(start: int, stop: int, count: int, rng: random.Random) -> list[int]:
    if stop - start < count:
        return _spread(start, stop, count)
    return sorted(rng.sample(range(start, stop), count))


# --- reading ----------------------------------------------------------------------------------------------


@from_shards
def read_frames(
    path: str | Path,
    frames: int | Sequence[int],
    size: int | None,
    strategy: Strategy = "uniform",
    rng: random.Random | None = None,
    decoder: Decoder | None = None,
) -> np.ndarray:
    """Frames of a video, turned upright: (T, size, size, 3) uint8 RGB.

    `frames` is how many to take by `strategy`, or the indices themselves. `size` squeezes each frame to a square while
    decoding, as the released code does; None keeps the file's own size. `decoder` None: decord, then PyAV.
    Raises DataError with file and reason when a wanted frame can't be read, or the file was cut short.
    """
    path = Path(path)
    _check_file(path)
    if missing_bytes(path):
        info = probe(path, digest=False)
        if not info.readable:
            raise DataError(f"{path}: {info.reason}")

    def choose(total: int) -> list[int]:
        if isinstance(frames, int):
            return frame_indices(total, frames, strategy, rng)
        if len(frames) == 0 or not 0 <= min(frames) <= max(frames) < total:
            raise DataError(f"frames {list(frames)} asked for, {total} there")
        return list(frames)

    state = rng.getstate() if rng else None
    reasons = []
    for name, read in (("decord", _read_decord), ("pyav", _read_pyav)):
        if decoder not in (None, name):
            continue
        if rng and state:  # the second decoder draws what the first one drew
            rng.setstate(state)
        try:
            return read(path, choose, size)
        except DataError as error:
            reasons.append(f"{name}: {error}")
    raise DataError(f"{path}: can't be read ({'; '.join(reasons)})")


@from_shards
def read_image(path: str | Path) -> Any:
    """An image file as PIL.Image in RGB, turned as its EXIF says. Raises DataError with file and reason."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    _check_file(path)
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: no readable image ({_one_line(error)})") from None


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


# --- looking at a file once -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What one look at a video file found. Sizes are as shown, after rotation; 0 where nothing could be learned."""

    readable: bool  # frames decode, and as many exist as the container declares, within one
    frames: int  # that exist
    fps: float
    seconds: float
    width: int  # pixels
    height: int
    rotation: int  # degrees clockwise that a player turns it: 0, 90, 180, 270
    decoder: str  # which one reads it: decord, pyav, or none
    sha256: str
    bytes: int
    reason: str  # why it is not readable, or empty

    def as_dict(self) -> dict[str, Any]:
        """Plain values, one per field."""
        return asdict(self)


def probe(path: str | Path, every_frame: bool = True, digest: bool = True) -> VideoInfo:
    """Look at a video file once; never raises for what is wrong with it.

    `every_frame` decodes the whole file, because training draws its frames from the whole file; else 16 frames, evenly
    spread. `digest` False leaves the sha256 empty.
    """
    if shard_of(path):
        try:
            with as_file(str(path)) as file:
                return probe(file, every_frame, digest)
        except DataError as error:
            return VideoInfo(False, 0, 0.0, 0.0, 0, 0, 0, "none", "", 0, str(error).removeprefix(f"{path}: "))
    path = Path(path)
    known: dict[str, Any] = {
        "readable": False, "frames": 0, "fps": 0.0, "seconds": 0.0, "width": 0, "height": 0, "rotation": 0,
        "decoder": "none", "sha256": "", "bytes": 0, "reason": "",
    }  # fmt: skip
    missing = 0
    try:
        _check_file(path)
        known["bytes"], missing = path.stat().st_size, missing_bytes(path)
        known["sha256"] = sha256(path) if digest else ""
        declared = _read_header(path, known)
        _try_decoders(path, known, every_frame)
        if declared and known["frames"] < declared - 1:
            raise DataError(f"{known['frames']} frames exist, the container declares {declared}")
        if missing and not declared and not _reaches_its_end(path, known["fps"]):
            raise DataError("the packets end before the declared duration")
    except (DataError, OSError) as error:
        cut = f"; the file was cut: {missing} bytes are missing at its end" if missing else ""
        return VideoInfo(**{**known, "reason": str(error).removeprefix(f"{path}: ") + cut})
    return VideoInfo(**{**known, "readable": True})


def _read_header(path: Path, known: dict[str, Any]) -> int:
    """Fill in what the container says; the number of frames that it declares, 0 where it declares none."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = video_stream(container)
            rate = stream.average_rate or stream.guessed_rate
            known["fps"] = round(float(rate), 6) if rate else 0.0
            known["width"], known["height"] = stream.width, stream.height
            declared = stream.frames
            outside = 0  # samples that an edit list hides; they are declared, and never shown
            first = None
            for packet in container.demux(stream):
                outside += bool(packet.is_discard)
                if first is None:
                    first = next(iter(packet.decode()), None)
            if first is not None:
                known["rotation"] = -90 * round(first.rotation / 90) % 360
                if known["rotation"] in (90, 270):
                    known["width"], known["height"] = stream.height, stream.width
    except av.FFmpegError as error:
        raise DataError(f"can't be opened ({_one_line(error)})") from None
    return max(0, declared - outside)


def _try_decoders(path: Path, known: dict[str, Any], every_frame: bool) -> None:
    reasons = []
    for name, count in (("decord", _count_decord), ("pyav", _count_pyav)):
        try:
            known["frames"] = count(path, every_frame)
        except DataError as error:
            reasons.append(f"{name}: {error}")
            continue
        known["decoder"] = name
        known["seconds"] = round(known["frames"] / known["fps"], 6) if known["fps"] else 0.0
        return
    raise DataError(f"frames don't decode ({'; '.join(reasons)})")


def _count_decord(path: Path, every_frame: bool) -> int:
    decord = _decord()
    try:
        _refuse_hidden(path)
        reader = decord.VideoReader(str(path), width=_PROBE_SIDE, height=_PROBE_SIDE, num_threads=1)
        total = len(reader)
        wanted = list(range(total)) if every_frame else sorted({*frame_indices(total, 16, "uniform"), total - 1})
        for start in range(0, len(wanted), _PROBE_CHUNK):
            reader.get_batch(wanted[start : start + _PROBE_CHUNK])
    except (RuntimeError, IndexError, decord.DECORDError) as error:
        raise DataError(_one_line(error)) from None
    return total


def _count_pyav(path: Path, every_frame: bool) -> int:
    import av

    if not every_frame:
        _read_pyav(path, lambda total: frame_indices(total, 16, "uniform"), _PROBE_SIDE)
    try:
        with av.open(str(path)) as container:
            stream = video_stream(container)
            if every_frame:
                count = sum(1 for _ in container.decode(stream))
            else:
                count = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)
    except av.FFmpegError as error:
        raise DataError(_one_line(error)) from None
    if not count:
        raise DataError("no frame decodes")
    return count


def _reaches_its_end(path: Path, fps: float) -> bool:
    """Whether the packets go on until the declared duration, within one and a half frames: only other data are missing."""
    import av

    with av.open(str(path)) as container:
        if not container.duration or not fps:
            return False
        end = 0.0
        for packet in container.demux():
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        start = (container.start_time or 0) / 1e6
        return container.duration / 1e6 - (end - start) < 1.5 / fps
