"""Failures of the disk on one rank that must end all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from alpro.distributed.collectives import gather_objects
from alpro.errors import TrainingError


@contextmanager
def agreed(what: str) -> Iterator[None]:
    """Run a block that reads or writes the disk; if it fails on any rank, raise the same TrainingError on all."""
    fault = ""
    try:
        yield
    except (OSError, TrainingError) as error:
        fault = str(error)
    faults: Iterable[str] = gather_objects(fault)
    if fault := next(filter(None, faults), ""):
        raise TrainingError(f"{what} could not be written or read: {fault}; mend that and run the same command again to go on")
