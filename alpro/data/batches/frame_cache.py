"""Cache of decoded frames, shared by all processes and stages: a clip that was read before is not decoded again.

An entry is found by the SHA-256 of the file, the sampling, the size and the version of the decoding code. So a changed
file or another decoder never gets old frames. The hash of a file is remembered together with its size and times.

The cache never changes a result. When it is full, no further clips are added. If its folder cannot be used, clips are
decoded as without a cache, after one warning.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import numpy as np

from alpro.config import Loader
from alpro.data import media
from alpro.data.batches import augment
from alpro.data.media.shards import locate_clip, shard_of
from alpro.errors import DataError
from alpro.files.atomic import sha256
from alpro.files.frame_store import Choose, FrameStore
from alpro.files.locks import LockHeld
from alpro.files.state import DEFAULT, state_folder
from alpro.system.filesystems import network_filesystem
from alpro.terminal import logs

log = logs.get(__name__)
_SETTLED_NS = 2_000_000_000  # a file that changed less than this ago may change again without a change of its times
R = TypeVar("R")


def open_frame_cache(loader: Loader) -> FrameCache | None:
    """Return the cache of `loader.cache`; None if there is none or, after a warning, if its folder cannot be used.

    A folder in `.state` moves with it to ALPRO_STATE.
    """
    if loader.cache is None:
        return None
    folder = Path(loader.cache)
    if folder.parts[:1] == DEFAULT.parts:
        folder = state_folder().joinpath(*folder.parts[1:])
    frames = FrameCache(folder, int(loader.cache_gb * 1e9))
    return frames if frames.usable else None


def read_cached(
    cache: FrameCache | None, path: Path, sampling: str, decode: Callable[[], np.ndarray], choose: Choose = range
) -> np.ndarray:
    """Return the chosen frames of what `decode` returns: `FrameCache.read` if there is a cache."""
    if cache is not None:
        return cache.read(path, sampling, decode, choose)
    frames = decode()
    return frames[list(choose(len(frames)))]


class FrameCache:
    """Decoded frames of clips, in a folder. Threads may share an object, and so may a process and its forked children.

    `limit` is the maximum number of bytes of pixels.
    """

    def __init__(self, folder: str | Path, limit: int) -> None:
        self.folder, self.limit = Path(folder).absolute(), limit
        self.usable, self.full = True, False
        self._lock = threading.RLock()
        self._store: FrameStore | None = None
        _caches.add(self)
        self._try(lambda store: None)

    def read(self, path: Path, sampling: str, decode: Callable[[], np.ndarray], choose: Choose = range) -> np.ndarray:
        """Return the chosen frames of a clip, (T, 3, S, S) uint8, from the cache if it has them.

        `sampling` names what `decode` returns for a file: the choice of frames and their size. Raises what `decode` raises.
        """
        content = self._content(path) if self.usable else None
        if content is not None:
            key = (content, f"{sampling}, {decoding_version()}")
            frames = self._try(lambda store: store.get(*key, choose))
            if frames is not None:
                return frames
        frames = decode()
        if content is not None and not self.full and content == self._content(path):  # not replaced in the meantime
            self._add(key, frames)
        return frames[list(choose(len(frames)))]

    def close(self) -> None:
        """Close the files. The next read opens them again."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None

    def _add(self, key: tuple[str, str], frames: np.ndarray) -> None:
        if self._try(lambda store: store.add(*key, frames)) is False:
            self.full = True
            log.warning(
                "frame cache %s: has reached loader.cache_gb (%g); further clips are decoded each time they are read. Raise "
                "loader.cache_gb, or delete the folder if it contains frames of old data",
                self.folder, self.limit / 1e9,
            )  # fmt: skip

    def _content(self, path: Path) -> str | None:
        """Return the SHA-256 of a clip's file; None if the file can't be read, or would be hashed in vain."""
        try:
            if shard_of(path):
                return locate_clip(path).sha256
            stamp = _stamp(path)
            name = os.path.abspath(path)
            known = self._try(lambda store: store.content_of(name, str(stamp)))
            if known is not None or self.full:
                return known
            content = sha256(path)
            if time.time_ns() - stamp[2] > _SETTLED_NS and _stamp(path) == stamp:
                self._try(lambda store: store.remember(name, str(stamp), content))
            return content
        except (OSError, DataError):
            return None  # decoding reports it

    def _try(self, action: Callable[[FrameStore], R]) -> R | None:
        """Return the result of an action on the store, or None if the cache is unusable, or turns out to be."""
        with self._lock:
            if not self.usable:
                return None
            try:
                if self._store is None:
                    self._store = _open(self.folder, self.limit)
                return action(self._store)
            except (OSError, sqlite3.Error, LockHeld) as error:
                self.usable = False
                self.close()
                log.warning("frame cache %s: can't be used (%s); clips are decoded each time they are read", self.folder, error)
                return None


def _open(folder: Path, limit: int) -> FrameStore:
    folder.mkdir(parents=True, exist_ok=True)
    if kind := network_filesystem(folder):
        raise OSError(f"it is on a network file system, {kind}: set loader.cache to a folder on a local disk")
    return FrameStore(folder, limit)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return size, time of modification and time of any change of a file. Raises OSError."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@cache
def decoding_version() -> str:
    """Return a digest of everything that decides which pixels a file gives: our code and the libraries'."""
    digest = hashlib.sha256()
    for file in [*sorted(Path(media.__path__[0]).glob("*.py")), Path(augment.__file__)]:
        digest.update(file.read_bytes())
    for library in ("decord", "av", "torchcodec", "pillow"):
        with suppress(PackageNotFoundError):
            digest.update(f"{library} {version(library)}".encode())
    return digest.hexdigest()[:16]


# --- forks ------------------------------------------------------------------------------------------------

_caches: weakref.WeakSet[FrameCache] = weakref.WeakSet()
_forking: list[FrameCache] = []


def _before_fork() -> None:
    """Close all caches, as SQLite's connections must not be open in two processes, and keep threads from opening them."""
    for frames in list(_caches):
        frames._lock.acquire()
        frames.close()
        _forking.append(frames)


def _after_fork() -> None:
    while _forking:
        _forking.pop()._lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
