"""The network connections of this process: which there are, and how to hang up (Linux; elsewhere none are seen)."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

FOLDER = Path("/proc/self/fd")


def connections() -> dict[str, int]:
    """All sockets, by a name that no later one will have: name -> file descriptor."""
    found = {}
    for entry in FOLDER.iterdir() if FOLDER.is_dir() else ():
        with contextlib.suppress(OSError):  # the descriptor that lists the folder is gone by now
            if (name := os.readlink(entry)).startswith("socket:"):
                found[name] = int(entry.name)
    return found


def hang_up(known: dict[str, int]) -> None:
    """End those of the connections that are still open, in both directions; their owner closes them. Listeners stay."""
    open_now = connections()
    for name, number in known.items():
        if open_now.get(name) != number:
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
            connection.getpeername()
            connection.shutdown(socket.SHUT_RDWR)
