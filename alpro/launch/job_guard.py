"""Cancels the jobs of a name when the process that submitted them is gone: `python -I job_guard.py NAME`.

It reads from a pipe. A line means that the submitter has seen the end of its job; an end without a line means that the
submitter was killed. Imports only the standard library, as it starts with each job.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

ROUNDS, PAUSE_S = 5, 2.0  # sbatch may have submitted the job just as it was killed


def main(name: str) -> None:
    """Wait for the submitter's end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.readline():
        return
    for _ in range(ROUNDS):
        words = ["scancel", f"--user={os.getuid()}", f"--name={name}"]
        subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main(sys.argv[1])
