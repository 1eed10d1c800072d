"""Uploaded clips: files in a temporary folder of this process, deleted after use and at the end."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from alpro.data.media.extensions import VIDEO_EXTENSIONS
from alpro.served.limits import Limits, RequestError, short

CHUNK = 1 << 20


class Uploads:
    """A temporary folder for uploads. Files are named by this process, never by the caller."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._folder = tempfile.TemporaryDirectory(prefix="alpro-uploads-")
        self.path = Path(self._folder.name)
        self._kept: dict[Path, float] = {}  # when each was last used
        self._lock = threading.Lock()

    @contextmanager
    def received(self, stream: BinaryIO, name: str) -> Iterator[Path]:
        """Store and check an upload for the time of a block. Raises RequestError (413, 415) before anything is decoded."""
        path = self.add(stream, name)
        try:
            yield path
        finally:
            self.remove(path)

    def add(self, stream: BinaryIO, name: str) -> Path:
        """Store and check an upload; return its path. `remove` deletes it. Raises RequestError (413, 415)."""
        path = self._new_path(name)
        try:
            with path.open("xb") as file:
                written = 0
                while chunk := stream.read(CHUNK):
                    written += len(chunk)
                    if written > self.limits.upload_bytes:
                        raise self.limits.too_large(short(name))
                    file.write(chunk)
            self.limits.upload(path, name)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        with self._lock:
            self._kept[path] = time.monotonic()
        return path

    def has(self, path: Path) -> bool:
        """Return True if a path is an upload that still exists, and note its use."""
        with self._lock:
            if path not in self._kept:
                return False
            self._kept[path] = time.monotonic()
        return path.is_file()

    def remove(self, path: Path) -> None:
        """Delete an upload; any other path is left alone."""
        with self._lock:
            if self._kept.pop(path, None) is None:
                return
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

    def remove_unused(self, older_than_s: float) -> None:
        """Delete the uploads that nobody has used for this time."""
        now = time.monotonic()
        with self._lock:
            old = [path for path, used in self._kept.items() if now - used > older_than_s]
        for path in old:
            self.remove(path)

    def close(self) -> None:
        """Delete all uploads."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._folder.cleanup()

    def _new_path(self, name: str) -> Path:
        ending = Path(name).suffix.lower()
        if ending not in VIDEO_EXTENSIONS:
            known = ", ".join(VIDEO_EXTENSIONS[:5])
            raise RequestError(415, "not_a_video", f"{short(name)} does not have the extension of a video ({known}, ...).")
        return self.path / f"{secrets.token_hex(16)}{ending}"
