"""alpro/data/media/probe.py: NEW MODULE."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpro.data.media.containers import missing_bytes
from alpro.data.media.decoders import _check_file, _decord, _one_line, _read_pyav, _refuse_hidden, video_stream
from alpro.data.media.frames import frame_indices
from alpro.data.media.shards import as_file, shard_of
from alpro.errors import DataError
from alpro.files.atomic import sha256

_PROBE_SIDE = 32  # a probe looks whether frames decode, not at them


_PROBE_CHUNK = 128


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
