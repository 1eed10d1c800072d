"""Files that an earlier probe has checked, so that a training does not check each of them again.

A probe decodes every frame strictly, which takes about as long as reading a clip. Its results hold as long as the file has
the same size and time. They are kept as arrays: millions of files take some 16 bytes each, and forked workers share them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from alpro.data.media.orientation import Orientation
from alpro.data.media.shards import shard_of
from alpro.data.media.strict import Frames

_COUNT_BITS = 32

_keys = np.empty(0, np.uint64)  # sorted digests of path, size and time
_values = np.empty(0, np.uint64)


def trust(files: Iterable[tuple[str, int, int, Frames]]) -> None:
    """Add files, each with its path, its size and time (of a clip in a shard: those of the shard) and its frames."""
    global _keys, _values
    known = [(_digest(path, size, mtime_ns), _packed(frames)) for path, size, mtime_ns, frames in files]
    if not known:
        return
    added = np.array(known, np.uint64)
    keys, first = np.unique(np.concatenate([added[:, 0], _keys]), return_index=True)
    _keys, _values = keys, np.concatenate([added[:, 1], _values])[first]


def known_frames(path: str | Path) -> Frames | None:
    """Return the frames of a file that was checked and has not changed since, or None."""
    if not len(_keys):
        return None
    try:
        stat = os.stat(shard_of(path) or path)
    except OSError:
        return None
    key = np.uint64(_digest(str(path), stat.st_size, stat.st_mtime_ns))
    at = int(np.searchsorted(_keys, key))
    return _unpacked(int(_values[at])) if at < len(_keys) and _keys[at] == key else None


def _digest(path: str, size: int, mtime_ns: int) -> int:
    text = f"{path}\0{size}\0{mtime_ns}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _packed(frames: Frames) -> int:
    flags = frames.by_decord | frames.orientation.mirrored << 1 | frames.orientation.x_axis // 90 << 2
    return flags << _COUNT_BITS | frames.count


def _unpacked(value: int) -> Frames:
    flags, count = value >> _COUNT_BITS, value & (1 << _COUNT_BITS) - 1
    return Frames(count, bool(flags & 1), Orientation(90 * (flags >> 2), bool(flags & 2)))
