"""The rank's link to the launcher: sends heartbeats and failures, and exits when the launcher or parent is gone.

The launcher's address and the run's secret come in `ALPRO_LAUNCHER` (host:port:secret). A rank sends its heartbeats and the
message of a failure over one connection, on which both sides first prove that they know the secret. When that connection
ends, the launcher is gone and the rank exits at once, on any host. A rank that was started without `alpro launch`, by
`horovodrun`, `torchrun` or `srun`, watches its parent instead. Nothing here needs Horovod or torch.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from alpro.errors import LaunchError
from alpro.launch.proof import new_nonce, prove, proves
from alpro.system import place
from alpro.system.parent import die_with_parent, exit_orphaned, watch_process

ADDRESS = "ALPRO_LAUNCHER"
HELLO, WELCOME = "hello to the launcher", "welcome to a rank"  # what the proofs on the connection are for
HEARD = b"heard\n"  # the launcher's answer to a failure
STOP = b"stop\n"
HOSTS = b"hosts\n"  # the hosts of an elastic world have changed
LOST = b"lost\n"  # the host of a rank of an elastic world has vanished
HANDSHAKE_S = 30.0
MAX_LINE_BYTES = 4096  # of a process that has not proved anything yet
HEARD_S = 2.0  # how long a failing rank waits for that answer
BEAT_S = 0.1  # between two heartbeats that are sent: a small model has a hundred a second

_link: _Link | None = None
_stop = threading.Event()
_hosts_changed = threading.Event()


def _on_loss() -> None:
    """Do nothing when a host has vanished; `on_loss` replaces this."""


class _Link:
    """The connection to the launcher."""

    def __init__(self, address: str, rank: int) -> None:
        host, port, secret = address.rsplit(":", 2)
        self.socket = socket.create_connection((host, int(port)), timeout=HANDSHAKE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a failure must not wait behind a heartbeat
        notice_loss(self.socket)
        self.owner = os.getpid()
        self.lock = threading.Lock()
        self.heard = threading.Event()
        self.count = 0
        self.beat: dict[str, Any] = {}  # the newest one
        self.has_beat = threading.Event()  # it is not sent yet
        self.lines = self.socket.makefile("rb")
        self._shake_hands(secret, rank)
        self.socket.settimeout(None)
        threading.Thread(target=self._wait_for_end, name="launcher-watch", daemon=True).start()
        threading.Thread(target=self._send_beats, name="heartbeats", daemon=True).start()

    def _shake_hands(self, secret: str, rank: int) -> None:
        """Prove to each other that both sides know the secret. Raises LaunchError if the other side is not the launcher."""
        challenge, own = self.lines.readline(MAX_LINE_BYTES).strip(), new_nonce().hex()
        hello = {"rank": rank, "host": socket.gethostname(), "pid": os.getpid(), "nonce": own}
        self.send(event="hello", proof=prove(secret, HELLO, challenge, json.dumps(hello)).hex(), **hello)
        if not proves(self.lines.readline(MAX_LINE_BYTES).strip().decode(errors="replace"), secret, WELCOME, own):
            raise LaunchError("the process at the launcher's address does not prove this run's secret; start the run again")

    def send(self, **message: Any) -> None:
        try:
            with self.lock:
                self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            exit_orphaned()

    def _send_beats(self) -> None:
        while self.has_beat.wait():
            self.has_beat.clear()
            self.send(**self.beat)
            time.sleep(BEAT_S)

    def _wait_for_end(self) -> None:
        try:
            for line in self.lines:
                {HEARD: self.heard.set, STOP: _stop.set, HOSTS: _hosts_changed.set, LOST: _on_loss}[line]()
        except OSError:
            pass
        exit_orphaned()


def greet(connection: socket.socket, lines: BinaryIO, secret: str) -> dict[str, Any] | None:
    """On the launcher's side: return the first message of a rank of this run; None if the other side does not prove the secret.

    Ends within HANDSHAKE_S, after which the connection is shut down if nothing has been proved.
    """
    late = threading.Timer(HANDSHAKE_S, _shut_down, [connection])  # the socket's own limit is for each read alone
    late.daemon = True
    late.start()
    challenge = new_nonce().hex()
    try:
        connection.sendall(challenge.encode() + b"\n")
        message = json.loads(lines.readline(MAX_LINE_BYTES))
        hello = {name: message[name] for name in ("rank", "host", "pid", "nonce")}
        if not proves(message["proof"], secret, HELLO, challenge, json.dumps(hello)):
            return None
        connection.sendall(prove(secret, WELCOME, hello["nonce"]).hex().encode() + b"\n")
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    finally:
        late.cancel()
    return {"event": "hello", **hello}


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def start() -> None:
    """Connect to the launcher if this process was started as a rank. A second call does nothing."""
    global _link
    if _link is not None or (own := place.current()) is None:
        return
    if own.starter != "srun":  # Slurm ends the processes of a step itself
        die_with_parent()
    address = os.environ.get(ADDRESS)
    if address is None:
        watch_process(os.getppid())
        return
    try:
        _link = _Link(address, own.rank)
    except OSError:
        exit_orphaned()


def joined() -> None:
    """Tell the launcher that this rank has connected to all others."""
    if _link is not None:
        _link.send(event="joined")
        # registered after the backend's own exit handler, so it runs before that disconnects from the other ranks
        atexit.register(_leave)
        sys.excepthook = _reporting_hook(sys.excepthook)


def notice_loss(connection: socket.socket) -> None:
    """Make a connection fail within 30 s after the other host vanished without closing it (Linux)."""
    if sys.platform == "linux":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3), (socket.TCP_USER_TIMEOUT, 25_000)
        ):  # fmt: skip
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def stoppable(can: bool) -> None:
    """Tell the launcher whether this process can stop gracefully (it polls `stop_asked`)."""
    if _link is not None:
        _link.send(event="stoppable", can=can)


def stop_asked() -> bool:
    """Return True once a graceful stop was requested, by the launcher or by `ask_to_stop`."""
    return _stop.is_set()


def hosts_changed() -> bool:
    """Return True if the launcher has reported other hosts since `forget_host_changes`."""
    return _hosts_changed.is_set()


def forget_host_changes() -> None:
    """Forget what the launcher has reported about hosts."""
    _hosts_changed.clear()


def on_loss(action: Callable[[], None]) -> None:
    """Call `action`, in another thread, whenever the launcher reports that the host of a rank has vanished."""
    global _on_loss
    _on_loss = action


def secret() -> str | None:
    """Return the secret of this run; None if this process was not started by `alpro launch`."""
    address = os.environ.get(ADDRESS)
    return address.rsplit(":", 1)[1] if address else None


def ask_to_stop() -> None:
    """Request a graceful stop of this process; called by the handler of SIGTERM."""
    _stop.set()


def beat(what: str, step: int | None = None, total: int | None = None) -> None:
    """Tell the launcher that this rank makes progress: what it does now, and step `step` of `total`.

    Another thread sends the newest heartbeat within BEAT_S, so this takes no time.
    """
    if _link is None or _link.owner != os.getpid():
        return
    _link.count += 1
    _link.beat = {"event": "beat", "count": _link.count, "what": what, "step": step, "total": total}
    _link.has_beat.set()


def failed(line: str) -> None:
    """Tell the launcher why this rank is about to end, before the other ranks can fail because of it.

    Waits until the launcher has received the message, so that it is printed before this rank's own output.
    """
    if _link is not None and _link.owner == os.getpid():
        _link.send(event="failed", line=line)
        _link.heard.wait(HEARD_S)


def _reporting_hook(hook: Any) -> Any:
    """Return an exception hook that reports to the launcher first, then calls `hook`."""

    def report(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        failed(f"{kind.__name__}: {error}".splitlines()[0])
        hook(kind, error, trace)

    return report


def _leave() -> None:
    if _link is not None and _link.owner == os.getpid():
        _link.send(event="leaving")
