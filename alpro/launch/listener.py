"""The launcher's listener: takes the connections of this run's ranks, and refuses all others."""

from __future__ import annotations

import contextlib
import errno
import json
import queue
import socket
import threading
from collections.abc import Callable

from alpro.launch import heartbeat
from alpro.launch.diagnosis import KILLED, VANISHED, Event, Rank
from alpro.terminal import logs

log = logs.get(__name__)
# of a connection whose other host is gone; which one depends on what the kernel still knows about the way to it
UNREACHABLE = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)


class Listener:
    """Listens on one address; everything that a rank sends, and its end, becomes an event in a queue."""

    def __init__(self, host: str, secret: str, events: queue.Queue[Event], register: Callable[[int], Rank]) -> None:
        """`register` returns the rank with a number, once the process of that rank has proved the secret."""
        self.secret, self.events, self.register = secret, events, register
        self.connections: list[socket.socket] = []
        self.refused_hosts: set[str] = set()
        self.socket = socket.create_server((host, 0))
        self.address: tuple[str, int] = self.socket.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def send(self, line: bytes) -> None:
        """Send a line to all ranks."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.sendall(line)

    def close(self) -> None:
        """Stop listening, and close the connections, so that the ranks end."""
        self.socket.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, (host, _) = self.socket.accept()
            except OSError:
                return
            heartbeat.notice_loss(connection)
            threading.Thread(target=self._read_rank, args=(connection, host), daemon=True).start()

    def _read_rank(self, connection: socket.socket, host: str) -> None:
        lines = connection.makefile("rb")
        hello = heartbeat.greet(connection, lines, self.secret)
        if hello is None:
            self._refuse(host)
            connection.close()
            return
        rank = self.register(int(hello["rank"]))
        self.connections.append(connection)
        self.events.put(("message", rank, hello))
        end = KILLED
        try:
            for line in lines:
                message = json.loads(line)
                self.events.put(("message", rank, message))
                if message["event"] == "failed":
                    connection.sendall(heartbeat.HEARD)
        except OSError as error:
            if error.errno in UNREACHABLE:
                end = VANISHED
        except ValueError:
            pass
        self.events.put(("gone", rank, end))

    def _refuse(self, host: str) -> None:
        if host not in self.refused_hosts:  # once per host, so that nobody can flood the log
            self.refused_hosts.add(host)
            log.warning("alpro launch: refused a process on %s: it does not prove this run's secret", host)
