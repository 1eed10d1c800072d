"""Shared by the page's handlers: the served stack, links to clips, and how a failure becomes a sentence."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro.app.clips import ClipLinks
from alpro.app.markup import notice
from alpro.errors import AlproError
from alpro.served.collections import Collection
from alpro.served.engine import Reply, timed_out
from alpro.served.folder import VideoRoot
from alpro.served.limits import RequestError
from alpro.served.look import Prompters
from alpro.served.stack import Served
from alpro.terminal import logs

LOG = logs.get(__name__)
UPLOADED = "upload:"  # how the list of clips names an upload
CLIPS_LISTED = 2000
FAILED = "The page failed to do this; the server's log says why."


@dataclass(frozen=True)
class Page:
    """The parts behind the page."""

    served: Served
    links: ClipLinks
    prompters: Prompters
    timeout_s: float

    @property
    def videos(self) -> VideoRoot:
        """The chosen folder."""
        return self.served.videos

    def clip(self, name: str | None) -> Path:
        """Return the file of a clip in the list: a video of the folder, or an upload. Raises RequestError."""
        if not name:
            raise RequestError(422, "no_clip", "Choose a clip, or upload one.")
        if not name.startswith(UPLOADED):
            return self.videos.video(name)
        path = self.served.uploads.path / Path(name.removeprefix(UPLOADED)).name
        if not self.served.uploads.has(path):
            raise RequestError(404, "video_missing", "This upload was deleted; upload the clip again.")
        return path

    def clips(self, folder: str) -> list[str]:
        """Return the names of the clips of a folder, at most CLIPS_LISTED. Raises RequestError."""
        return self.videos.videos(folder)[:CLIPS_LISTED]

    def collection(self, folder: str) -> Collection:
        """Return an indexed folder. Raises RequestError."""
        return self.served.collections.get(self.videos.folder(folder))

    def wait(self, future: Future[Reply]) -> Reply:
        """Wait for an answer, up to the time limit. Raises RequestError (504)."""
        try:
            return future.result(self.timeout_s)
        except TimeoutError:
            future.cancel()
            raise timed_out() from None


def told(handler: Callable[..., Any], also: tuple[Any, ...] = ()) -> Callable[..., Any]:
    """Return a handler whose errors become a sentence in its first output; `also`: values for its further outputs."""

    @functools.wraps(handler)
    def safe(*args: Any, **named: Any) -> Any:
        try:
            return handler(*args, **named)
        except AlproError as error:
            message = str(error)
        except Exception:
            LOG.exception("%s failed", handler.__name__)
            message = FAILED
        return (notice(message), *also) if also else notice(message)

    return safe


class Stopwatch:
    """Seconds since its construction."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._start
