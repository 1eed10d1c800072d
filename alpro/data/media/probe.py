"""Probing: the properties of one video file, and whether its frames can be decoded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpro.data.media.containers import empty_slots, missing_bytes
from alpro.data.media.decoders import read_with_decord, read_with_pyav
from alpro.data.media.frames import frame_indices
from alpro.data.media.orientation import Orientation
from alpro.data.media.shards import as_memory_file, shard_of
from alpro.data.media.streams import check_file, error_summary, open_video, video_stream
from alpro.data.media.strict import Frames, check_frames
from alpro.errors import DataError
from alpro.files.atomic import sha256

_SIDE = 32  # pixels: a probe decodes frames but does not use them
_SAMPLE = 16  # frames that the decoder has to read, after all have been checked


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
    mirrored: bool  # a player exchanges left and right, before it turns it
    decoder: str  # the decoder that reads it: decord, pyav, or none
    sha256: str
    bytes: int
    reason: str  # why it is not readable, or empty

    @property
    def checked(self) -> Frames:
        """The frames, if every one of them was checked."""
        return Frames(
            self.frames, self.decoder == "decord", Orientation((self.rotation + 180 * self.mirrored) % 360, self.mirrored)
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, one per field."""
        return asdict(self)


def unreadable_info(size: int, reason: str) -> VideoInfo:
    """Return the info of a file of `size` bytes that cannot be probed."""
    return VideoInfo(False, 0, 0.0, 0.0, 0, 0, 0, False, "none", "", size, reason)


def probe(path: str | Path, every_frame: bool = True, digest: bool = True) -> VideoInfo:
    """Probe a video file; a defect of the file is returned as `reason`, not raised.

    `every_frame` decodes the whole file, because training draws frames from all of it; otherwise, of a long video, only
    16 evenly spread frames are decoded. `digest` False leaves the sha256 empty.
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
        with open_video(path) as container:
            stream = video_stream(container)
            rate = stream.average_rate or stream.guessed_rate
            values["fps"] = round(float(rate), 6) if rate else 0.0
            values["width"], values["height"] = stream.width, stream.height
            declared = stream.frames
            if declared and container.format.name.startswith("mov"):
                # an edit list hides samples: the demuxer leaves out whole groups of pictures and marks the other ones
                declared = min(declared, sum(not entry.is_discard for entry in stream.index_entries)) or declared
            index = stream.index
    except av.FFmpegError as error:
        raise DataError(f"can't be opened ({error_summary(error)})") from None
    return max(0, declared - (empty_slots(path, index) if declared else 0))


def _try_decoders(path: Path, values: dict[str, Any], every_frame: bool) -> None:
    """Fill in the frames, the orientation, the duration and the first decoder that reads the file."""

    def sample(total: int) -> list[int]:
        return sorted({*frame_indices(total, _SAMPLE, "uniform"), total - 1})

    found, indices = check_frames(path, None if every_frame else sample)
    orientation = found.orientation
    values |= {"frames": found.count, "rotation": orientation.rotation, "mirrored": orientation.mirrored}
    if orientation.swaps_sides:
        values["width"], values["height"] = values["height"], values["width"]
    values["seconds"] = round(found.count / values["fps"], 6) if values["fps"] else 0.0
    values["decoder"] = _decoder(path, found, indices or sample(found.count))


def _decoder(path: Path, found: Frames, indices: list[int]) -> str:
    if found.by_decord:
        try:
            read_with_decord(path, found, indices, _SIDE)
            return "decord"
        except DataError as error:
            reason = f"; decord: {error}"
    else:
        reason = ""
    try:
        read_with_pyav(path, found, indices, _SIDE)
        return "pyav"
    except DataError as error:
        raise DataError(f"frames don't decode (pyav: {error}{reason})") from None


def _reaches_declared_end(path: Path, fps: float) -> bool:
    """Return True if packets reach the declared duration (within 1.5 frames): the missing bytes are not video."""
    with open_video(path) as container:
        if not container.duration or not fps:
            return False
        end = 0.0
        for packet in container.demux():
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        start = (container.start_time or 0) / 1e6
        return container.duration / 1e6 - (end - start) < 1.5 / fps
