"""The end of a rank's connection says whether its process or its host is gone."""

from __future__ import annotations

import errno
import queue
from collections.abc import Iterator
from typing import Any

import pytest

from alpro.launch import heartbeat
from alpro.launch.diagnosis import KILLED, VANISHED, Rank
from alpro.launch.listener import Listener


class Connection:
    """A connection that ends with an error."""

    def __init__(self, number: int) -> None:
        self.number = number

    def makefile(self, mode: str) -> Iterator[bytes]:
        yield b'{"event": "joined"}\n'
        raise OSError(self.number, "the end")


@pytest.mark.parametrize(
    ("number", "end"),
    [(errno.ETIMEDOUT, VANISHED), (errno.EHOSTUNREACH, VANISHED), (errno.ENETUNREACH, VANISHED), (errno.ECONNRESET, KILLED)],
)
def test_a_connection_without_an_answer_is_a_lost_host(monkeypatch: pytest.MonkeyPatch, number: int, end: str) -> None:
    monkeypatch.setattr(heartbeat, "greet", lambda *_: {"event": "hello", "rank": 0})
    events: queue.Queue[Any] = queue.Queue()
    listener = Listener("127.0.0.1", "secret", events, Rank)
    connection: Any = Connection(number)
    listener._read_rank(connection, "node")
    assert [events.get_nowait()[0] for _ in range(2)] == ["message", "message"]
    kind, rank, observation = events.get_nowait()
    assert (kind, rank.number, observation) == ("gone", 0, end)
    listener.connections.clear()
    listener.close()
