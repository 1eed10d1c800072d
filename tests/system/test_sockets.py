"""Sockets of this process: listed while open, shut down so that the other end notices; listeners stay."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from alpro.system import sockets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_closing_ends_only_the_given_connections() -> None:
    before = sockets.connections()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
        opened = {name: number for name, number in sockets.connections().items() if name not in before}
        assert set(opened.values()) == {listener.fileno(), here.fileno(), there.fileno()}

        others = {name: number for name, number in opened.items() if number != there.fileno()}
        sockets.close_connections(others)
        there.settimeout(10)
        assert there.recv(1) == b""  # the other end has noticed
        with socket.create_connection(listener.getsockname(), timeout=10):  # the listener still accepts connections
            listener.accept()[0].close()

        number = here.fileno()
        here.close()
        with socket.create_connection(listener.getsockname(), timeout=10) as later:  # reuses the freed file descriptor
            assert later.fileno() == number
            sockets.close_connections(others)
            accepted, _ = listener.accept()
            later.sendall(b"x")
            assert accepted.recv(1) == b"x"
            accepted.close()
        there.close()


@pytest.mark.parametrize("folder", ["/proc/self/fd", "/no-such-folder"])
def test_only_sockets_of_this_process_are_its_own(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "FOLDER", Path(folder))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        assert sockets.is_own(address)
    assert not sockets.is_own(address)
