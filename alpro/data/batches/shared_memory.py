"""Shared memory of loader workers: checked before they start, and a worker that cannot use it ends at once with the reason.

A worker hands a batch over in a file in /dev/shm, from a background thread. If that fails, Python prints the error and drops
the batch, so the training would wait for it forever (pytorch/pytorch issue 5040, Docker's default of 64 MB).
"""

from __future__ import annotations

import multiprocessing.queues
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from alpro.errors import TrainingError
from alpro.system import place

FOLDER = Path("/dev/shm")
REMEDY = "start the container with a larger --shm-size (such as --shm-size=2g), or set loader.workers: 0"
EXIT_CODE = 74  # of a worker that could not hand over a batch; sysexits.h calls it an input or output error


def free_bytes() -> int | None:
    """Return the free bytes of /dev/shm; None where the system has none."""
    return shutil.disk_usage(FOLDER).free if FOLDER.is_dir() else None


def check_room(batch_bytes: int, workers: int, prefetch: int) -> None:
    """Raise TrainingError if /dev/shm cannot hold the batches that the workers of all processes on this host prepare."""
    free = free_bytes()
    processes = (place.current() or place.ALONE).local_size
    needed = processes * (workers * prefetch + 1) * batch_bytes  # and the one that the training works on
    if free is not None and free < needed:
        raise TrainingError(
            f"{FOLDER} has {free / 1e6:.1f} MB free, but loader.workers needs {needed / 1e6:.1f} MB: processes {processes}, "
            f"workers of each {workers}, {prefetch} batches of {batch_bytes / 1e6:.1f} MB each (loader.prefetch); {REMEDY}"
        )


class FailurePipe:
    """Carries the reason of a worker's end to the process that reads its batches. Made before the workers are forked."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)

    def end_worker_on_failure(self) -> None:
        """In a worker: end this process, with the reason, if a batch cannot be handed over."""

        def end(error: Exception, batch: Any) -> None:
            line = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"alpro: loader worker: {line}", file=sys.stderr, flush=True)
            os.write(self._write_end, line.encode(errors="replace")[:2000])
            os._exit(EXIT_CODE)

        # Python calls this in the thread that failed; the default prints a traceback and continues
        multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]

    def reason(self) -> str:
        """Return why a worker ended itself; empty if none did."""
        try:
            return os.read(self._read_end, 4000).decode(errors="replace")
        except BlockingIOError:
            return ""

    def close(self) -> None:
        os.close(self._read_end)
        os.close(self._write_end)
