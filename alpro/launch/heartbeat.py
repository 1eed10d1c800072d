"""A process's side of `alpro launch`: it tells how far it is, and never outlives what started it.

The launcher's address comes in `ALPRO_LAUNCHER` (host:port:token). Over that one connection go heartbeats, the line of a
failure, and, by its mere end, the news that the launcher is gone: then the process ends at once, on any host. A process that
`horovodrun` started by hand watches its parent instead. Nothing here needs Horovod or torch.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import sys
import threading
from typing import Any

from alpro.system.parent import _orphaned, die_with_parent, watch_process

ADDRESS = "ALPRO_LAUNCHER"


HEARD = b"heard\n"  # the launcher's answer to a failure


HEARD_S = 2.0

_link: _Link | None = None


_stop = threading.Event()


class _Link:
    """The connection to the launcher."""

    def __init__(self, address: str, rank: int) -> None:
        host, port, token = address.rsplit(":", 2)
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.socket.settimeout(None)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a failure must not wait behind a heartbeat
        notice_loss(self.socket)
        self.owner = os.getpid()
        self.lock = threading.Lock()
        self.heard = threading.Event()
        self.count = 0
        self.send(event="hello", token=token, rank=rank, host=socket.gethostname(), pid=os.getpid())
        threading.Thread(target=self._wait_for_end, name="launcher-watch", daemon=True).start()

    def send(self, **message: Any) -> None:
        try:
            with self.lock:
                self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            _orphaned()

    def _wait_for_end(self) -> None:
        try:
            for line in self.socket.makefile("rb"):
                (self.heard if line == HEARD else _stop).set()  # the launcher has nothing else to say
        except OSError:
            pass
        _orphaned()


def start() -> None:
    """Begin to watch, where this process was started as one of a world; a second call does nothing."""
    global _link
    if _link is not None or "HOROVOD_RANK" not in os.environ:
        return
    die_with_parent()
    address = os.environ.get(ADDRESS)
    if address is None:
        watch_process(os.getppid())
        return
    try:
        _link = _Link(address, int(os.environ["HOROVOD_RANK"]))
    except OSError:
        _orphaned()


def joined() -> None:
    """Tell the launcher that this process has met the others of its world."""
    if _link is not None:
        _link.send(event="joined")
        # registered after Horovod's own exit handler, so it runs before that one disturbs the other ranks
        atexit.register(_leave)
        sys.excepthook = _tell_then(sys.excepthook)


def notice_loss(connection: socket.socket) -> None:
    """Have a connection fail within half a minute of the other host's vanishing, which closes nothing (Linux)."""
    if sys.platform == "linux":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3), (socket.TCP_USER_TIMEOUT, 25_000)
        ):  # fmt: skip
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def stoppable(can: bool) -> None:
    """Tell the launcher whether this process looks at `stop_asked`, so that it is worth waiting for."""
    if _link is not None:
        _link.send(event="stoppable", can=can)


def stop_asked() -> bool:
    """True once the launcher, or whoever called `ask_to_stop`, wants an end at the next good moment."""
    return _stop.is_set()


def ask_to_stop() -> None:
    """What the handler of SIGTERM calls."""
    _stop.set()


def beat(what: str, step: int | None = None, total: int | None = None) -> None:
    """Tell the launcher that this process goes on, and where it is."""
    if _link is None or _link.owner != os.getpid():
        return
    _link.count += 1
    _link.send(event="beat", count=_link.count, what=what, step=step, total=total)


def failed(line: str) -> None:
    """Tell the launcher why this process is about to end, before the others can fail because of it.

    It has heard that when this returns, so that its line comes before any that this process prints next.
    """
    if _link is not None and _link.owner == os.getpid():
        _link.send(event="failed", line=line)
        _link.heard.wait(HEARD_S)


def _tell_then(hook: Any) -> Any:
    """An exception hook that tells the launcher first: the other ranks can only fail after that."""

    def tell(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        failed(f"{kind.__name__}: {error}".splitlines()[0])
        hook(kind, error, trace)

    return tell


def _leave() -> None:
    if _link is not None and _link.owner == os.getpid():
        _link.send(event="leaving")
