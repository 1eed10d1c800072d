"""Store of frames in a folder: a file of pixels that is memory-mapped and only grows, and an SQLite index of its clips.

Pixels are written first, and one transaction then publishes them, so a reader never gets half a clip, whenever a writer is
killed. SQLite lets one process write at a time while others read. A checksum per frame detects what a power failure or
a faulty disk may leave: such a clip counts as missing.

SQLite comes with Python. LMDB would map the index too, but its processes can fail when one opens a store while another
closes it (github.com/jnwatson/py-lmdb issues 289, 309 and 340), and a damaged file can crash them.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alpro.files.locks import Lock

_WAIT_S = 30.0  # for another process that writes
_VERSION = 1  # of the format
_SCHEMA = f"""
CREATE TABLE files (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, content TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE clips (
    number INTEGER PRIMARY KEY,
    content TEXT NOT NULL,
    sampling TEXT NOT NULL,
    offset INTEGER NOT NULL,
    shape TEXT NOT NULL,
    checksums BLOB NOT NULL,
    UNIQUE (content, sampling)
);
PRAGMA user_version = {_VERSION};
"""
Choose = Callable[[int], Sequence[int]]  # number of stored frames -> positions of the frames to return


class FrameStore:
    """An open store. It is neither for several threads at once nor for a forked child: close it before a fork.

    A clip is named by the content of its file and by the sampling of its frames. `limit` is the maximum size of the file
    of pixels in bytes; the index needs about 0.5 KB per clip in addition. Every method raises OSError or sqlite3.Error if
    the folder can't be used.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.limit = limit
        folder.mkdir(parents=True, exist_ok=True)
        self._index = sqlite3.connect(folder / "index.sqlite", timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        self._pixels = -1
        self._map: mmap.mmap | None = None
        try:
            if self._version() == 0:
                self._create(folder)
            if self._version() != _VERSION:
                raise OSError(f"it has format {self._version()}, and this version of ALPRO reads {_VERSION}")
            self._index.execute("PRAGMA synchronous = NORMAL")  # a power failure may lose the last clips, nothing else
            self._pixels = os.open(folder / "frames", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except BaseException:
            self.close()
            raise

    def _create(self, folder: Path) -> None:
        with Lock(folder / "create.lock", wait_s=_WAIT_S):  # SQLite doesn't wait for another process that changes the mode
            self._index.execute("PRAGMA journal_mode = WAL")
            if self._version() == 0:
                self._index.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")

    def _version(self) -> int:
        """Return the version of the format; 0 if the index is empty."""
        return self._index.execute("PRAGMA user_version").fetchone()[0]

    def close(self) -> None:
        """Close the files."""
        self._index.close()
        if self._pixels >= 0:
            os.close(self._pixels)
            self._pixels = -1

    # --- clips ------------------------------------------------------------------------------------------------

    def get(self, content: str, sampling: str, choose: Choose = range) -> np.ndarray | None:
        """Return a copy of the chosen frames of a clip: (T, ...) uint8, or None if it is not stored or damaged."""
        row = self._index.execute(
            "SELECT number, offset, shape, checksums FROM clips WHERE content = ? AND sampling = ?", (content, sampling)
        ).fetchone()
        if row is None:
            return None
        number, offset, shape_text, checksums = row
        shape = [int(length) for length in shape_text.split("x")]
        stored = self._mapped(offset, shape)
        if stored is not None:
            positions = list(choose(shape[0]))
            frames = stored[positions]
            expected = np.frombuffer(checksums, np.uint32)[positions]
            if [zlib.crc32(frame) for frame in frames] == expected.tolist():
                return frames
        self._index.execute("DELETE FROM clips WHERE number = ? AND offset = ?", (number, offset))
        return None

    def add(self, content: str, sampling: str, frames: np.ndarray) -> bool:
        """Store the frames of a clip, (T, ...) uint8, unless another process has; return False if they exceed the limit."""
        frames = np.ascontiguousarray(frames, dtype=np.uint8)
        checksums = np.array([zlib.crc32(frame) for frame in frames], np.uint32).tobytes()
        shape = "x".join(map(str, frames.shape))
        self._index.execute("BEGIN IMMEDIATE")
        try:
            last = self._index.execute("SELECT offset, shape FROM clips ORDER BY number DESC LIMIT 1").fetchone()
            offset = last[0] + int(np.prod([int(length) for length in last[1].split("x")])) if last else 0
            if offset + frames.nbytes > self.limit:
                return False
            sql = "INSERT OR IGNORE INTO clips (content, sampling, offset, shape, checksums) VALUES (?, ?, ?, ?, ?)"
            if self._index.execute(sql, (content, sampling, offset, shape, checksums)).rowcount:
                _write_all(self._pixels, frames, offset)
            self._index.execute("COMMIT")
            return True
        finally:
            if self._index.in_transaction:
                self._index.execute("ROLLBACK")

    def _mapped(self, offset: int, shape: Sequence[int]) -> np.ndarray | None:
        """Return a view of mapped frames, or None if the file ends before them."""
        length = int(np.prod(shape))
        if self._map is None or len(self._map) < offset + length:
            size = os.fstat(self._pixels).st_size
            if size < offset + length:
                return None
            self._map = mmap.mmap(self._pixels, size, access=mmap.ACCESS_READ)
        return np.frombuffer(self._map, np.uint8, length, offset).reshape(shape)

    # --- contents of files ------------------------------------------------------------------------------------

    def content_of(self, path: str, stamp: str) -> str | None:
        """Return the remembered content of a file in the state `stamp`, or None."""
        row = self._index.execute("SELECT content FROM files WHERE path = ? AND stamp = ?", (path, stamp)).fetchone()
        return row[0] if row else None

    def remember(self, path: str, stamp: str, content: str) -> None:
        """Remember the content of a file in the state `stamp`, in place of an earlier state."""
        self._index.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (path, stamp, content))


def _write_all(file: int, data: np.ndarray, offset: int) -> None:
    rest = data.data.cast("B")
    while rest:
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written
