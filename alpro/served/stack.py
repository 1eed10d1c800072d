"""Everything that answers requests, put together once for the web page and for the HTTP service."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alpro.config import load
from alpro.errors import ConfigError
from alpro.served.collections import Collections
from alpro.served.engine import QUEUE, Engine, Kind
from alpro.served.folder import VideoRoot
from alpro.served.following import ServedModels, best_device
from alpro.served.limits import Limits
from alpro.served.sources import NamedFile, Sources
from alpro.served.uploads import Uploads
from alpro.served.versions import Role

UNUSED_S = 3600.0  # after which an upload is deleted


@dataclass(frozen=True)
class Served:
    """The models in use, the folder of videos, its indexes, uploads, and the engine that answers."""

    root: Path  # the project
    limits: Limits
    models: ServedModels
    videos: VideoRoot
    collections: Collections
    uploads: Uploads
    engine: Engine


@contextmanager
def served(
    root: Path,
    videos: str | Path,
    *,
    files: Sequence[NamedFile] = (),
    tasks: Mapping[Role, str | None] | None = None,
    limits: Limits | None = None,
    queue: int = QUEUE,
    observe_batch: Callable[[Kind, int], None] = lambda kind, size: None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Served]:
    """Load the models of a project and follow them for the time of a block.

    `root`: folder of the project (with params.yaml and models/), which may be missing if `files` names the models. Raises
    ConfigError, CheckpointError and RequestError for a folder of videos that does not exist.
    """
    limits = limits or Limits()
    folder = VideoRoot(videos)
    params = load(root / "params.yaml") if (root / "params.yaml").is_file() else None
    models = ServedModels(Sources(root, params, files, tasks), best_device(), say)
    collections, uploads = Collections(models, say), Uploads(limits)
    models.housekeeping.append(lambda: uploads.remove_unused(UNUSED_S))
    models.start()
    engine = Engine(models, queue, observe_batch)
    try:
        yield Served(root, limits, models, folder, collections, uploads, engine)
    finally:
        models.stop()
        engine.close()
        uploads.close()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end a block with SystemExit, so that its clean-up runs.

    uvicorn stops in order at either signal, and then sends it again to the handler that was there before.
    """

    def stop(number: int, frame: object) -> None:
        raise SystemExit(0)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(host: str, port: int, hint: str) -> socket.socket:
    """Return a socket that listens. Raises ConfigError, with `hint` on what to do, if the address can't be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small pieces at once only over a socket of this protocol; else an answer's body waits 40 ms for an ACK
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"port {port} on {host} cannot be used ({reason}); {hint}") from None
    return listening
