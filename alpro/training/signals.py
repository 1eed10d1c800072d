"""alpro/training/signals.py: NEW MODULE."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alpro.launch import heartbeat


@contextmanager
def stop_on_signal() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the training after the step, with a snapshot; a second Ctrl-C at once, without one.

    Whoever can't wait so long kills, and the last snapshot is whole.
    """

    def ask(number: int, frame: Any) -> None:
        heartbeat.ask_to_stop()
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before: dict[int, Any] = {}
    try:
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, ask)
    except ValueError:  # not in the main thread: whoever runs it so decides about signals
        yield
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else ignored, as in a script's background
        before[signal.SIGINT] = signal.signal(signal.SIGINT, ask)
    heartbeat.stoppable(True)
    try:
        yield
    finally:
        heartbeat.stoppable(False)
        for number, handler in before.items():
            signal.signal(number, handler)
