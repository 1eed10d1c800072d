"""Container checks without decoding: is the file cut short, does it hide frames, does it count pauses as frames?

decord and FFmpeg open a truncated .avi or .mkv silently and report fewer frames. These containers declare their length
in their first bytes, so a shorter file was not copied completely.

An .mp4 or .mov that was trimmed without re-encoding still contains the removed frames, hidden by an edit list. decord
counts the hidden frames and repeats others in their place; FFmpeg leaves them out, as players do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_SEGMENT = 0x18538067  # Matroska's element that contains all others
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"pnot", b"moof", b"styp", b"sidx"}


def missing_bytes(path: str | Path) -> int:
    """Return how many bytes the container declares beyond the end of the file; 0 if it is complete or declares nothing.

    Supports RIFF (.avi), Matroska and WebM, ISO base media (.mp4, .mov, .3gp) and ASF (.wmv). Raises OSError.
    """
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[:4] == b"RIFF":
            return max(0, _riff_end(file, size) - size)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return max(0, _matroska_end(file) - size)
        if head[4:8] in _BOXES:
            return max(0, _iso_end(file, size) - size)
        if head == _ASF_HEADER[:12]:
            return max(0, _asf_end(file) - size)
    return 0


def hides_frames(path: str | Path) -> bool:
    """Return True if an .mp4 or .mov has an edit list that leaves out frames of a video track. Raises OSError."""
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        end = 0
        while end + 8 <= size:
            file.seek(end)
            head = file.read(16)
            length, kind, start = _box(head, size - end)
            if (kind not in _BOXES and not end) or length < 8:
                return False
            if kind == b"moov":
                file.seek(end + start)
                return _movie_hides(file.read(length - start))
            end += length
    return False


# --- ISO base media ---------------------------------------------------------------------------------------


def _box(head: bytes, remaining: int) -> tuple[int, bytes, int]:
    """Return the length, the type and the start of the content of the box that begins with `head`."""
    length, kind = int.from_bytes(head[:4], "big"), head[4:8]
    if length == 1:  # the size follows as 64 bits
        return int.from_bytes(head[8:16], "big"), kind, 16
    return length or remaining, kind, 8  # 0: up to the end of the file


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(content):
        length, kind, start = _box(content[at : at + 16], len(content) - at)
        if length < start:
            return
        yield kind, content[at + start : at + length]
        at += length


def _movie_hides(movie: bytes) -> bool:
    boxes = list(_boxes(movie))
    ticks = next((_times(content)[0] for kind, content in boxes if kind == b"mvhd"), 0)  # per second, of the movie
    return any(kind == b"trak" and _track_hides(dict(_boxes(content)), ticks) for kind, content in boxes)


def _track_hides(track: dict[bytes, bytes], movie_ticks: int) -> bool:
    media = dict(_boxes(track.get(b"mdia", b"")))
    edits = dict(_boxes(track.get(b"edts", b""))).get(b"elst", b"")
    if not edits or media.get(b"hdlr", b"")[8:12] != b"vide" or b"mdhd" not in media or not movie_ticks:
        return False
    table = dict(_boxes(dict(_boxes(media.get(b"minf", b""))).get(b"stbl", b"")))
    ticks, duration = _times(media[b"mdhd"])
    frame = int.from_bytes(table.get(b"stts", b"")[12:16], "big")  # ticks of the first frame
    delay = int.from_bytes(table.get(b"ctts", b"")[12:16], "big", signed=True)  # from decoding to showing the first frame
    width = 8 if edits[0] else 4  # version 1 has 64-bit numbers
    ranges = []  # (start, length) of the shown parts, in ticks
    for at in range(8, 8 + int.from_bytes(edits[4:8], "big") * (2 * width + 4), 2 * width + 4):
        length = int.from_bytes(edits[at : at + width], "big")
        start = int.from_bytes(edits[at + width : at + 2 * width], "big", signed=True)
        if start >= 0:  # -1: a pause before the first frame
            ranges.append((start, length * ticks / movie_ticks))
    if len(ranges) != 1:
        return len(ranges) > 1
    first, length_shown = ranges[0]
    return first - delay >= frame or (length_shown > 0 and duration + delay - first - length_shown >= 1.5 * frame)


def _times(header: bytes) -> tuple[int, int]:
    """Return the ticks per second and the duration in ticks of an mvhd or mdhd box."""
    if header[:1] == b"\1":
        return int.from_bytes(header[20:24], "big"), int.from_bytes(header[24:32], "big")
    return int.from_bytes(header[12:16], "big"), int.from_bytes(header[16:20], "big")


def _iso_end(file: BinaryIO, size: int) -> int:
    end = 0
    while end + 8 <= size:
        file.seek(end)
        length, _, start = _box(file.read(16), size - end)
        if length < start:  # not a box: trailing bytes that players ignore
            return size
        end += length
    return end


# --- RIFF, ASF, Matroska ----------------------------------------------------------------------------------


def _riff_end(file: BinaryIO, size: int) -> int:
    """Return the declared end. An .avi above 1 GB has several top-level chunks."""
    end = 0
    while end < size:
        file.seek(end)
        head = file.read(8)
        if len(head) < 8 or head[:4] not in (b"RIFF", b"JUNK"):
            break
        end += 8 + int.from_bytes(head[4:8], "little") + int.from_bytes(head[4:8], "little") % 2
    return end


def empty_slots(path: str | Path, stream: int) -> int:
    """Return the number of empty chunks of a stream of an .avi: pauses, which the container counts as frames.

    Recordings with a variable frame rate get them when they are copied to an .avi. 0 for other containers. Raises OSError.
    """
    names = (b"%02ddc" % stream, b"%02ddb" % stream)
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"AVI ":
            return 0
        at = empty = 0
        while at + 8 <= size:
            file.seek(at)
            head = file.read(12)
            length = int.from_bytes(head[4:8], "little")
            empty += head[:4] in names and not length
            at += 12 if head[:4] in (b"RIFF", b"LIST") else 8 + length + length % 2
    return empty


def _asf_end(file: BinaryIO) -> int:
    file.seek(16)
    header = file.read(min(int.from_bytes(file.read(8), "little"), 1 << 16))
    at = header.find(_ASF_FILE_PROPERTIES)
    return int.from_bytes(header[at + 40 : at + 48], "little") if at >= 0 else 0


def _matroska_end(file: BinaryIO) -> int:
    file.seek(0)
    while True:
        name, _ = _read_vint(file, keep_marker=True)
        length, unknown = _read_vint(file, keep_marker=False)
        if name is None or length is None or unknown:  # a live recording declares no length
            return 0
        if name == _SEGMENT:
            return file.tell() + length
        file.seek(length, os.SEEK_CUR)


def _read_vint(file: BinaryIO, keep_marker: bool) -> tuple[int | None, bool]:
    """Return EBML's integer of variable width, and True if it is the value that means `unknown`."""
    first = file.read(1)
    if not first or not first[0]:
        return None, False
    width = 9 - first[0].bit_length()
    raw = first + file.read(width - 1)
    value = int.from_bytes(raw, "big")
    bits = 7 * width
    if keep_marker:
        return value, False
    value &= (1 << bits) - 1
    return value, value == (1 << bits) - 1
