"""Probing: the properties of one video file, and whether its frames can be decoded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpro.data.media.containers import missing_bytes
from alpro.data.media.decoders import (
    check_file,
    error_summary,
    import_decord,
    read_with_pyav,
    refuse_hidden_frames,
    video_stream,
)
from alpro.data.media.frames import frame_indices
from alpro.data.media.shards import as_memory_file, shard_of
from alpro.errors import DataError
from alpro.files.atomic import sha256

_SIDE = 32  # pixels: a probe decodes frames but does not use them
_CHUNK = 128  # frames decoded at a time


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Properties of a video file. Sizes are as shown, after rotation; numbers are 0 if they are unknown."""

    readable: bool  # frames decode, and as many exist as the container declares, within one
    frames: int  # number of existing frames
    fps: float
    seconds: float
    width: int  # pixels
    height: int
    rotation: int  # degrees clockwise by which a player turns it: 0, 90, 180, 270
    decoder: str  # the decoder that reads it: decord, pyav, or none
    sha256: str
    bytes: int
    reason: str  # why it is not readable, or empty

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, one per field."""
        return asdict(self)


def unreadable_info(size: int, reason: str) -> VideoInfo:
    """Return the info of a file of `size` bytes that cannot be probed."""
    return VideoInfo(False, 0, 0.0, 0.0, 0, 0, 0, "none", "", size, reason)


def probe(path: str | Path, every_frame: bool = True, digest: bool = True) -> VideoInfo:
    """Probe a video file; a defect of the file is returned as `reason`, not raised.

    `every_frame` decodes the whole file, because training draws frames from all of it; otherwise 16 evenly spread
    frames are decoded. `digest` False leaves the sha256 empty.
    """
    if shard_of(path):
        try:
            with as_memory_file(str(path)) as file:
                return probe(file, every_frame, digest)
        except DataError as error:
            return unreadable_info(0, str(error).removeprefix(f"{path}: "))
    path = Path(path)
    values = unreadable_info(0, "").as_dict()
    missing = 0
    try:
        check_file(path)
        values["bytes"], missing = path.stat().st_size, missing_bytes(path)
        values["sha256"] = sha256(path) if digest else ""
        declared = _read_header(path, values)
        _try_decoders(path, values, every_frame)
        if declared and values["frames"] < declared - 1:
            raise DataError(f"{values['frames']} frames exist, but the container declares {declared}")
        if missing and not declared and not _reaches_declared_end(path, values["fps"]):
            raise DataError("the packets end before the declared duration")
    except (DataError, OSError) as error:
        cut = f"; the file was cut: {missing} bytes are missing at its end" if missing else ""
        return VideoInfo(**{**values, "reason": str(error).removeprefix(f"{path}: ") + cut})
    return VideoInfo(**{**values, "readable": True})


def _read_header(path: Path, values: dict[str, Any]) -> int:
    """Fill in the container's properties and return the number of frames it declares; 0 if it declares none."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = video_stream(container)
            rate = stream.average_rate or stream.guessed_rate
            values["fps"] = round(float(rate), 6) if rate else 0.0
            values["width"], values["height"] = stream.width, stream.height
            declared = stream.frames
            hidden = 0  # samples that an edit list hides: declared, but never shown
            first = None
            for packet in container.demux(stream):
                hidden += bool(packet.is_discard)
                if first is None:
                    first = next(iter(packet.decode()), None)
            if first is not None:
                values["rotation"] = -90 * round(first.rotation / 90) % 360
                if values["rotation"] in (90, 270):
                    values["width"], values["height"] = stream.height, stream.width
    except av.FFmpegError as error:
        raise DataError(f"can't be opened ({error_summary(error)})") from None
    return max(0, declared - hidden)


def _try_decoders(path: Path, values: dict[str, Any], every_frame: bool) -> None:
    """Fill in the number of frames, the duration and the first decoder that reads the file."""
    reasons = []
    for name, count in (("decord", _count_decord), ("pyav", _count_pyav)):
        try:
            values["frames"] = count(path, every_frame)
        except DataError as error:
            reasons.append(f"{name}: {error}")
            continue
        values["decoder"] = name
        values["seconds"] = round(values["frames"] / values["fps"], 6) if values["fps"] else 0.0
        return
    raise DataError(f"frames don't decode ({'; '.join(reasons)})")


def _count_decord(path: Path, every_frame: bool) -> int:
    decord = import_decord()
    try:
        refuse_hidden_frames(path)
        reader = decord.VideoReader(str(path), width=_SIDE, height=_SIDE, num_threads=1)
        total = len(reader)
        indices = list(range(total)) if every_frame else sorted({*frame_indices(total, 16, "uniform"), total - 1})
        for start in range(0, len(indices), _CHUNK):
            reader.get_batch(indices[start : start + _CHUNK])
    except (RuntimeError, IndexError, decord.DECORDError) as error:
        raise DataError(error_summary(error)) from None
    return total


def _count_pyav(path: Path, every_frame: bool) -> int:
    import av

    if not every_frame:
        read_with_pyav(path, lambda total: frame_indices(total, 16, "uniform"), _SIDE)
    try:
        with av.open(str(path)) as container:
            stream = video_stream(container)
            if every_frame:
                count = sum(1 for _ in container.decode(stream))
            else:
                count = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)
    except av.FFmpegError as error:
        raise DataError(error_summary(error)) from None
    if not count:
        raise DataError("no frame decodes")
    return count


def _reaches_declared_end(path: Path, fps: float) -> bool:
    """Return True if packets reach the declared duration (within 1.5 frames): the missing bytes are not video."""
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
