"""Copies what a job prints, from its files on the shared file system to this process's output."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from alpro.terminal import console

SETTLE_S = 2.0  # a network file system may show the last lines of another host this much later
POLL_S = 0.2


class JobLog:
    """The files with a job's stdout and stderr. Each is read from where the last reading ended, in whole lines."""

    def __init__(self, folder: Path) -> None:
        self.files = {folder / "stdout": 0, folder / "stderr": 0}
        self.last_error = ""  # the last line of `alpro` on stderr

    @property
    def stdout(self) -> Path:
        """The file with the job's stdout."""
        return next(iter(self.files))

    @property
    def stderr(self) -> Path:
        """The file with the job's stderr."""
        return list(self.files)[1]

    def copy(self, rest: bool = False) -> bool:
        """Print the new lines; with `rest` also one without an end. Return True if there was anything."""
        found = False
        for path, offset in self.files.items():
            try:
                with path.open("rb") as file:  # opened anew, as a network file system checks for changes then
                    file.seek(offset)
                    new = file.read()
            except OSError:
                continue
            if not rest:
                new = new[: new.rfind(b"\n") + 1]
            self.files[path] = offset + len(new)
            for line in new.decode(errors="replace").splitlines():
                found = True
                console.say(line, sys.stderr if path == self.stderr else sys.stdout)
                if path == self.stderr and line.startswith("alpro: "):
                    self.last_error = line.removeprefix("alpro: ")
        return found

    def finish(self) -> None:
        """Print the remaining lines of a job that has ended."""
        until_s = time.monotonic() + SETTLE_S
        while time.monotonic() < until_s:
            if self.copy():
                until_s = time.monotonic() + SETTLE_S
            time.sleep(POLL_S)
        self.copy(rest=True)
