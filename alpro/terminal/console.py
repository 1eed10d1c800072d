"""Lines on stdout and stderr that may go nowhere any more: a closed pipe, a full disk or a dead terminal ends no training."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO


def say(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Print and flush. Where that can't be done (`alpro train ... | head`) this is said once on stderr, and no more."""
    print(text, end=end, file=Lasting(file or sys.stdout), flush=True)


class Lasting:
    """A stream whose `write` and `flush` never fail: with the first failure all that follows is thrown away."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """As of any stream."""
        try:
            return self._file.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """As of any stream."""
        try:
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def _give_up(self, error: OSError) -> None:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._file.fileno())  # also for what is left to flush at the end of the process
        if self._file is not sys.__stderr__:
            gone = isinstance(error, BrokenPipeError)
            why = "nobody reads the log any more" if gone else f"the log can't be written any more ({error.strerror})"
            say(f"alpro: {why}; going on, the record will hold it", sys.__stderr__)
