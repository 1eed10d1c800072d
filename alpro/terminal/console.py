"""Printing that never raises: a closed pipe, full disk or dead terminal must not end a training."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO


def say(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Print and flush. The first failure (`alpro train ... | head`) is reported on stderr; later output is discarded."""
    print(text, end=end, file=SafeStream(file or sys.stdout), flush=True)


class SafeStream:
    """A text stream whose `write` and `flush` never raise. After the first failure all output is discarded."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write text; an OSError is handled by `_give_up`."""
        try:
            return self._file.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flush the stream; an OSError is handled by `_give_up`."""
        try:
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def _give_up(self, error: OSError) -> None:
        """Redirect the stream to /dev/null, so that the flush at exit succeeds too, and report that on stderr."""
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), self._file.fileno())
        if self._file is not sys.__stderr__:
            closed = isinstance(error, BrokenPipeError)
            reason = "the reader of the log is gone" if closed else f"the log cannot be written ({error.strerror})"
            say(f"alpro: {reason}; the run continues and its record will be complete", sys.__stderr__)
