"""Was a file cut short? Answered from the sizes that its container declares, without decoding.

decord and FFmpeg open a cut .avi or .mkv in silence and report fewer frames. Each of these containers says in
its first bytes how long it is; a file that ends earlier was not copied to its end.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

_SEGMENT = 0x18538067  # Matroska's element that holds everything
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"pnot", b"moof", b"styp", b"sidx"}


def missing_bytes(path: str | Path) -> int:
    """How many bytes the container declares that the file does not have; 0 where it is whole or says nothing.

    Knows RIFF (.avi), Matroska and WebM, ISO base media (.mp4, .mov, .3gp) and ASF (.wmv). Raises OSError.
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


def _riff_end(file: BinaryIO, size: int) -> int:
    """Chunks of the top level one after the other: an .avi above 1 GB has several."""
    end = 0
    while end < size:
        file.seek(end)
        head = file.read(8)
        if len(head) < 8 or head[:4] not in (b"RIFF", b"JUNK"):
            break
        end += 8 + int.from_bytes(head[4:8], "little") + int.from_bytes(head[4:8], "little") % 2
    return end


def _iso_end(file: BinaryIO, size: int) -> int:
    end = 0
    while end + 8 <= size:
        file.seek(end)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # the size follows as 64 bits
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:  # to the end of the file
            return size
        if length < 8:  # no box: trailing bytes that players ignore
            return size
        end += length
    return end


def _asf_end(file: BinaryIO) -> int:
    file.seek(16)
    header = file.read(min(int.from_bytes(file.read(8), "little"), 1 << 16))
    at = header.find(_ASF_FILE_PROPERTIES)
    return int.from_bytes(header[at + 40 : at + 48], "little") if at >= 0 else 0


def _matroska_end(file: BinaryIO) -> int:
    file.seek(0)
    while True:
        name, _ = _vint(file, keep_marker=True)
        length, unknown = _vint(file, keep_marker=False)
        if name is None or length is None or unknown:  # a live recording declares no length
            return 0
        if name == _SEGMENT:
            return file.tell() + length
        file.seek(length, os.SEEK_CUR)


def _vint(file: BinaryIO, keep_marker: bool) -> tuple[int | None, bool]:
    """EBML's number of variable width, and whether it is the one that means `unknown`."""
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
