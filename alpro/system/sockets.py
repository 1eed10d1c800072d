"""Lists and shuts down this process's open sockets; `connections` is empty except on Linux."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

FOLDER = Path("/proc/self/fd")


def connections() -> dict[str, int]:
    """Return all open sockets: the kernel's name, which is never reused -> file descriptor."""
    sockets = {}
    for entry in FOLDER.iterdir() if FOLDER.is_dir() else ():
        with contextlib.suppress(OSError):  # the descriptor that listed the folder is closed by now
            if (name := os.readlink(entry)).startswith("socket:"):
                sockets[name] = int(entry.name)
    return sockets


def opened_by(action: Callable[[], None]) -> dict[str, int]:
    """Perform an action; return the sockets that are open after it and were not before, as `connections` does."""
    before = connections()
    action()
    return {name: number for name, number in connections().items() if name not in before}


def close_connections(sockets: dict[str, int]) -> None:
    """Shut down those of the sockets that are still open, in both directions. Listening sockets are left alone.

    The descriptors stay open; their owner closes them.
    """
    open_now = connections()
    for name, descriptor in sockets.items():
        if open_now.get(name) != descriptor:
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            connection.getpeername()  # raises OSError for a listening socket
            connection.shutdown(socket.SHUT_RDWR)


def is_own(address: tuple[str, int]) -> bool:
    """Return True if this process has a socket with this local address (host and port, IPv4)."""
    if not FOLDER.is_dir():  # not Linux
        import psutil

        return address in [connection.laddr for connection in psutil.Process().net_connections("tcp4")]
    for descriptor in connections().values():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.family == socket.AF_INET and connection.getsockname() == address:
                return True
    return False
