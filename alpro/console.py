"""Lines on stdout and stderr that nobody may be reading any more: a closed pipe must not end a training."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO


def say(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Print and flush. Where the reader is gone (`alpro train ... | head`) that is said once on stderr, and no more."""
    file = file or sys.stdout
    try:
        print(text, end=end, file=file, flush=True)
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), file.fileno())  # also for the flush at the end of the process
        if file is not sys.stderr:
            with suppress(OSError):
                print("alpro: nobody reads the log any more; going on, the record will hold it", file=sys.stderr, flush=True)
