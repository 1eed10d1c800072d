"""Ends all ranks with the same error if the disk fails on one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from alpro.distributed.objects import gather_objects
from alpro.errors import AlproError, TrainingError


@contextmanager
def agreed(what: str) -> Iterator[None]:
    """Run a block that reads or writes the disk; if it fails on any rank, raise the same TrainingError on all."""
    error_message = ""
    try:
        yield
    except (OSError, AlproError) as error:
        error_message = str(error)
    messages: Iterable[str] = gather_objects(error_message)
    if message := next(filter(None, messages), ""):
        raise TrainingError(
            f"{what} could not be written or read: {message}; fix that and run the same command again to resume"
        )
