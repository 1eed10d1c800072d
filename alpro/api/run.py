"""`alpro serve`: starts the HTTP service and stops it in order."""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from alpro.errors import AlproError, ConfigError
from alpro.served.limits import Limits
from alpro.served.sources import NamedFile
from alpro.served.stack import Served, ended_by_signals, listen, served
from alpro.served.versions import Role

TOKEN = "ALPRO_API_TOKEN"
SHORTEST_TOKEN = 16
STOP_S = 10  # for requests in flight


def serve(
    root: Path,
    videos: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    files: Sequence[NamedFile] = (),
    tasks: Mapping[Role, str | None] | None = None,
    limits: Limits | None = None,
    queue: int = 256,
    timeout_s: float = 30.0,
    say: Callable[[str], None] = print,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; requests in flight are finished.

    `root`: the project; `videos`: the folder whose clips can be searched and named. Raises ConfigError for an address in use
    or a missing token, and the errors of loading the models.
    """
    import uvicorn

    from alpro.api.metrics import Metrics
    from alpro.api.service import create_app

    local, token = is_loopback(host), checked_token(host)
    listening = listen(host, port, "choose another one with --port")
    metrics = Metrics()
    with (
        ended_by_signals(),
        listening,
        served(
            root, videos, files=files, tasks=tasks, limits=limits, queue=queue, observe_batch=metrics.observe_batch, say=say
        ) as stack,
    ):
        threading.Thread(target=_index, args=(stack, say), name="alpro-index", daemon=True).start()
        app = create_app(stack, metrics, timeout_s, token, local)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=STOP_S, server_header=False, lifespan="off"
        )
        address = f"[{host}]" if ":" in host else host
        say(f"http://{address}:{listening.getsockname()[1]}  (pages: /docs, state: /health, metrics: /metrics)")
        uvicorn.Server(config).run(sockets=[listening])


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_token(host: str) -> str | None:
    """Return the token that requests must send, or None. Raises ConfigError if one is needed, or if it is too short."""
    token = os.environ.get(TOKEN, "")
    if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError(f"{TOKEN} must have at least {SHORTEST_TOKEN} printable ASCII characters without spaces")
    if not token and not is_loopback(host):
        raise ConfigError(f"{host} can be reached by other machines: set {TOKEN} to a secret that requests must send")
    return token or None


def _index(stack: Served, say: Callable[[str], None]) -> None:
    """Index the folder while questions are answered already."""
    try:
        if "search" in stack.models.current():
            found = stack.collections.index(stack.videos.path)
            say(f"search: {found.update.videos} clips are indexed, {found.update.encoded} of them now")
            for fault in found.update.unreadable:
                say(f"search: left out: {fault}")
    except (AlproError, OSError) as error:
        say(f"search: {error}")
