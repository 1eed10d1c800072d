"""Strict decoding: which frames a video really has, and whether decord would return them at their positions.

decord and FFmpeg conceal faults. A packet that does not decode is left out, so that all later frames move up and the last
one is repeated, or its damage is filled in from the frame before. decord also seeks by timestamps that some containers do
not have: in MPEG-TS it returns frames of up to a second later. Here the decoder stops at every fault, and each packet has
to give its own frame.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from alpro.data.media.containers import hides_frames
from alpro.data.media.orientation import UPRIGHT, Orientation, orientation_of
from alpro.data.media.streams import error_summary, open_video, strict_stream, video_stream
from alpro.errors import DataError

LONG = 3000  # frames: of a longer video, only the groups of pictures that are read are checked
_TIMED = {"mov", "matroska", "flv"}  # containers with the time at which each frame is shown: decord finds it
_UNTIMED = {"avi"}  # a container that decord reads well if frames are shown in the order in which they are decoded
_KEPT = 20_000  # results

Choose = Callable[[int], list[int]]


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of a video, all of which decode."""

    count: int
    by_decord: bool  # decord returns them at their positions
    orientation: Orientation = UPRIGHT


@dataclass(slots=True)
class _Decoding:
    """Packets of a stream, in the order of decoding, and the frames that they gave."""

    format: str = ""
    codec: str = ""
    packets: list[int | None] = field(default_factory=list)  # times at which they are shown
    keys: list[int] = field(default_factory=list)  # positions of packets that start a group of pictures
    leading: set[int | None] = field(default_factory=set)  # times of packets that are shown before their key frame
    invisible: int = 0  # packets that only later ones refer to
    hidden: int = 0  # packets that an edit list leaves out
    frames: list[int | None] = field(default_factory=list)  # times
    interlaced: set[int | None] = field(default_factory=set)  # times of frames that consist of two fields
    sizes: set[tuple[int, int]] = field(default_factory=set)
    orientation: Orientation = UPRIGHT

    def add_packet(self, packet: Any) -> None:
        if packet.is_discard:
            self.hidden += 1
            return
        if packet.is_keyframe:
            self.keys.append(len(self.packets))
        elif self.keys and packet.pts is not None and packet.pts < (self.packets[self.keys[-1]] or 0):
            self.leading.add(packet.pts)
        self.packets.append(packet.pts)
        if self.codec == "vp8" and not bytes(packet)[0] & 0x10:  # the bit `show_frame`
            self.invisible += 1

    def add_frame(self, frame: Any) -> None:
        if not self.frames:
            self.orientation = orientation_of(frame)
        if frame.is_corrupt:
            raise DataError(f"frame {len(self.frames)} is damaged")
        self.frames.append(frame.pts)
        if frame.interlaced_frame:
            self.interlaced.add(frame.pts)
        self.sizes.add((frame.width, frame.height))

    def in_order(self, without: Collection[int | None] = ()) -> bool:
        """Return True if all packets but some gave their frame, in the order of distinct times."""
        times = [time for time in self.packets if time is not None]
        if len(set(times)) < len(self.packets):
            return False
        return self.frames == sorted(time for time in times if time not in without)


_results: OrderedDict[tuple[str, int, int, int], Frames | str] = OrderedDict()
_lock = threading.Lock()


def check_frames(path: Path, choose: Choose | None = None) -> tuple[Frames, list[int]]:
    """Decode a video strictly; return its frames and the indices `choose(count)` of those to read.

    Of a video with more than LONG frames, only those at the indices are checked, with the frames that they refer to.
    Without `choose`, all are. Results are kept as long as the file does not change. Raises DataError if a frame does not
    decode or is damaged.
    """
    stat = path.stat()
    key = (str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns)
    with _lock:
        known = _results.get(key)
    if known is None:
        if choose and (some := _check_groups(path, choose)):
            return some
        try:
            known = _check_all(path)
        except DataError as error:
            known = str(error)
        with _lock:
            _results[key] = known
            if len(_results) > _KEPT:
                _results.popitem(last=False)
    if isinstance(known, str):
        raise DataError(known)
    return known, choose(known.count) if choose else []


# --- all frames -------------------------------------------------------------------------------------------


def _check_all(path: Path) -> Frames:
    try:
        grouped = _decode(path, by_group=True)
        found = grouped.in_order(without=grouped.leading)
    except DataError:
        grouped, found = _Decoding(), False
    if found and not grouped.leading:
        return Frames(len(grouped.frames), _suits_decord(path, grouped) and _seeks_to_keys(path, grouped), grouped.orientation)
    whole = _decode(path)
    count = _count(whole)
    suits = found and whole.in_order() and _suits_decord(path, whole) and _seeks_to_keys(path, whole)
    return Frames(count, suits, whole.orientation)


def _suits_decord(path: Path, decoding: _Decoding) -> bool:
    timed = decoding.format in _TIMED or (
        decoding.format in _UNTIMED and decoding.packets == sorted(time for time in decoding.packets if time is not None)
    )
    turned = decoding.orientation.exact and (decoding.format == "mov" or decoding.orientation == UPRIGHT)
    timed = timed and decoding.codec != "vp8"  # it has no means to detect damage, which each decoder shows differently
    closed = not decoding.leading  # decord returns frames some positions off around an open group of pictures
    return timed and turned and closed and len(decoding.sizes) == 1 and not decoding.hidden and not hides_frames(path)


def _seeks_to_keys(path: Path, decoding: _Decoding) -> bool:
    """Return True if the file's index leads to every key frame, as decord needs it to jump to one."""
    import av

    times = [time for key in decoding.keys if (time := decoding.packets[key]) is not None]
    try:
        with open_video(path) as container:
            stream = video_stream(container)
            for time in times:
                container.seek(time, stream=stream)
                if next(container.demux(stream)).pts != time:
                    return False
    except (av.FFmpegError, StopIteration):
        return False
    return True


def _count(decoding: _Decoding) -> int:
    """Return the number of frames. Raises DataError if a packet that should have given one has not."""
    count, expected = len(decoding.frames), len(decoding.packets) - decoding.invisible
    if not count:
        raise DataError("no frame decodes")
    if count >= expected or decoding.codec == "mpeg4":  # some packets of MPEG-4 only say that nothing changes
        return count
    given = set(decoding.frames)
    fields = sum(time not in given and previous in decoding.interlaced for previous, time in pairwise(decoding.packets))
    if count + fields == expected:
        return count  # camcorders store the two fields of a frame one after the other
    missing = {time for time in decoding.packets if time is not None} - given
    first_key = decoding.packets[decoding.keys[0]] if decoding.keys else None
    if first_key is not None and all(time < first_key for time in missing) and len(missing) == expected - count:
        return count  # they refer to frames before the start of the file
    if count == expected - 1 and missing == {max(time for time in decoding.packets if time is not None)}:
        return count  # a container may count one frame more than it has
    raise DataError(f"only {count} of {expected} frames decode")


def _decode(path: Path, by_group: bool = False) -> _Decoding:
    """Decode a whole video.

    `by_group` decodes every group of pictures on its own, as after a seek, without the pictures that refer to the group
    before. Raises DataError at the first fault.
    """
    import av

    done = _Decoding()
    try:
        with open_video(path) as container:
            stream = strict_stream(container, pixels=False)
            done.format, done.codec = container.format.name.split(",")[0], stream.codec_context.name
            for packet in container.demux(stream):
                if packet.size:
                    done.add_packet(packet)
                if by_group and packet.size and packet.is_keyframe and len(done.packets) > 1:
                    for frame in stream.codec_context.decode(None):
                        done.add_frame(frame)
                    stream.codec_context.flush_buffers()
                if by_group and packet.pts in done.leading:
                    continue
                for frame in packet.decode():
                    done.add_frame(frame)
    except (av.FFmpegError, ValueError) as error:
        fault = f"frame {len(done.frames)} does not decode" if done.packets else "can't be opened"
        raise DataError(f"{fault} ({error_summary(error)})") from None
    return done


# --- the frames that are read -----------------------------------------------------------------------------


def _check_groups(path: Path, choose: Choose) -> tuple[Frames, list[int]] | None:
    """Check only the groups of pictures that are read. Return None if the video is short, or they can't be told apart."""
    import av

    done = _Decoding()
    try:
        with open_video(path) as container:
            stream = strict_stream(container, pixels=False)
            rate = float(stream.average_rate or 0)
            if max(stream.frames, rate * (container.duration or 0) / 1e6) <= LONG:
                return None
            done.format, done.codec = container.format.name.split(",")[0], stream.codec_context.name
            for packet in container.demux(stream):
                if packet.size:
                    done.add_packet(packet)
            if not _groups_are_certain(path, done):
                return None
            times = sorted(time for time in done.packets if time is not None)
            indices = choose(len(times))
            keys = sorted(time for key in done.keys if (time := done.packets[key]) is not None)
            groups: dict[int, int] = {}  # key frame -> last frame that is read of its group
            for index in sorted(indices):
                groups[max((key for key in keys if key <= times[index]), default=times[0])] = times[index]
            for first, last in groups.items():
                if _decode_group(container, stream, done, first, last) != [t for t in times if first <= t <= last]:
                    raise DataError(f"the frames before frame {times.index(last)} don't all decode")
            return Frames(len(times), _suits_decord(path, done), done.orientation), indices
    except (av.FFmpegError, ValueError) as error:
        if not done.frames:  # the file can't be opened, or not demuxed: the check of all frames says why
            return None
        raise DataError(f"a frame does not decode ({error_summary(error)})") from None


def _groups_are_certain(path: Path, scan: _Decoding) -> bool:
    distinct = len({time for time in scan.packets if time is not None}) == len(scan.packets)
    whole = not scan.hidden and not hides_frames(path)
    return scan.format in _TIMED and scan.codec not in ("vp8", "mpeg4") and distinct and whole and bool(scan.keys)


def _decode_group(container: Any, stream: Any, done: _Decoding, first: int, last: int) -> list[int | None]:
    """Return the times of the frames from the key frame `first` to `last`."""
    container.seek(first, stream=stream)
    done.frames, started = [], False
    for packet in container.demux(stream):
        started = started or packet.pts == first
        if not started or (packet.pts is not None and packet.pts < first):
            continue
        for frame in packet.decode():
            done.add_frame(frame)
        if done.frames and (done.frames[-1] or 0) >= last:
            break
    return [time for time in done.frames if time is not None and time <= last]
