"""Graceful stop of a training on SIGTERM and Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alpro.launch import heartbeat


@contextmanager
def stop_on_signal() -> Iterator[None]:
    """On SIGTERM or Ctrl-C, request a stop after the current step, with a snapshot; a second Ctrl-C interrupts at once.

    SIGKILL is always safe: the previous snapshot stays intact.
    """

    def request_stop(number: int, frame: Any) -> None:
        heartbeat.ask_to_stop()
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before: dict[int, Any] = {}
    try:
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, request_stop)
    except ValueError:  # not in the main thread: the caller handles signals
        yield
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in a script's background
        before[signal.SIGINT] = signal.signal(signal.SIGINT, request_stop)
    heartbeat.stoppable(True)
    try:
        yield
    finally:
        heartbeat.stoppable(False)
        for number, handler in before.items():
            signal.signal(number, handler)
