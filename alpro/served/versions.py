"""One model in use, and the clips that it has encoded.

1+N: tokens of a clip (CLS and patches), D: width.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from alpro.serving.service import Service

Role = Literal["search", "ask"]  # a model of captions, which searches and matches; a model of questions
Origin = Literal["champion", "checkpoint", "file"]
ROLES: tuple[Role, ...] = ("search", "ask")
TASKS: dict[Role, tuple[str, ...]] = {"search": ("retrieval", "pretrain"), "ask": ("qa",)}
CACHE_BYTES = 512 << 20  # 800 clips at the paper's size, 40,000 at the sample's

ClipKey = tuple[str, int, int]  # path, bytes, time of the last change in ns


def clip_key(path: Path) -> ClipKey:
    """Return what identifies the content of a file. Raises OSError if it is gone."""
    stat = os.stat(path)
    return str(path), stat.st_size, stat.st_mtime_ns


class ClipCache:
    """Encoded clips (1, 1+N, D) of one model, the most recently used ones; and clips that are being read."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self._tokens: OrderedDict[ClipKey, Tensor] = OrderedDict()
        self._reading: dict[ClipKey, Future[Tensor]] = {}
        self._lock = threading.Lock()

    def get(self, key: ClipKey) -> Tensor | None:
        """Return the tokens of a clip, or None."""
        with self._lock:
            if key in self._tokens:
                self._tokens.move_to_end(key)
            return self._tokens.get(key)

    def put(self, key: ClipKey, tokens: Tensor) -> None:
        """Keep the tokens of a clip, and drop those that were not used for longest."""
        with self._lock:
            self._reading.pop(key, None)
            if key not in self._tokens:
                self._tokens[key] = tokens
                self.bytes += tokens.nbytes
            while self.bytes > self.max_bytes and len(self._tokens) > 1:
                self.bytes -= self._tokens.popitem(last=False)[1].nbytes

    def read_once(self, key: ClipKey, start: Callable[[], Future[Tensor]]) -> Future[Tensor]:
        """Return the reading of a clip's frames, started by `start` unless another request has started it."""
        with self._lock:
            reading = self._reading.get(key)
            if reading is None or (reading.done() and reading.exception()):
                reading = self._reading[key] = start()
            return reading

    def drop_read(self, key: ClipKey) -> None:
        """Drop the frames of a clip that was read and will not be encoded, for example because its request timed out."""
        with self._lock:
            if (reading := self._reading.get(key)) is not None and reading.done():
                del self._reading[key]

    def forget(self, key: ClipKey) -> None:
        """Drop a clip, for example of a deleted upload."""
        with self._lock:
            self._reading.pop(key, None)
            if (tokens := self._tokens.pop(key, None)) is not None:
                self.bytes -= tokens.nbytes


@dataclass(frozen=True, eq=False)
class Version:
    """A loaded model. `name` is `alpro-msvd_qa/3` or the checkpoint's path; `weights` is the fingerprint of its weights."""

    name: str
    origin: Origin
    role: Role
    service: Service
    weights: str
    clips: ClipCache = field(default_factory=ClipCache, repr=False)

    @property
    def title(self) -> str:
        """The name with its origin, for people."""
        return {"champion": f"{self.name} (champion)", "checkpoint": f"{self.name} (newest checkpoint)"}.get(
            self.origin, self.name
        )
