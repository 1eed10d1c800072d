"""Connections of this process: seen while they are open, hung up so that the other end notices, listeners left alone."""

from __future__ import annotations

import socket
import sys

import pytest

from alpro.system import sockets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def test_hanging_up_ends_what_was_named_and_nothing_else() -> None:
    before = sockets.connections()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
        opened = {name: number for name, number in sockets.connections().items() if name not in before}
        assert set(opened.values()) == {listener.fileno(), here.fileno(), there.fileno()}

        others = {name: number for name, number in opened.items() if number != there.fileno()}
        sockets.hang_up(others)
        there.settimeout(10)
        assert there.recv(1) == b""  # the other end has noticed
        with socket.create_connection(listener.getsockname(), timeout=10):  # and the listener still listens
            listener.accept()[0].close()

        number = here.fileno()
        here.close()
        with socket.create_connection(listener.getsockname(), timeout=10) as later:  # takes the number that became free
            assert later.fileno() == number
            sockets.hang_up(others)
            accepted, _ = listener.accept()
            later.sendall(b"x")
            assert accepted.recv(1) == b"x"
            accepted.close()
        there.close()
