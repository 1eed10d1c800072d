"""The package's exceptions: each message is one line that says what, where and what to do."""

from __future__ import annotations

import difflib
from typing import Any


class AlproError(Exception):
    """Base of everything that the command line prints as one line, with exit code 2."""


class ConfigError(AlproError):
    """params.yaml, or an option, holds something that can't be used."""


class DataError(AlproError):
    """An annotation file, a video or a data set can't be used."""


class CheckpointError(AlproError):
    """A checkpoint is missing, damaged, unsafe, or of another model."""


class LaunchError(AlproError):
    """The processes of a distributed run could not be started, or did not all end well."""


class TrainingError(AlproError):
    """A training stopped itself: non-finite numbers, too many unreadable videos, a lost worker."""


class TrackingError(AlproError):
    """The tracking store can't be reached, or holds something unexpected."""


def nearest(name: str, known: Any) -> str:
    """`; did you mean 'x'?`, or nothing where no known name is close."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""
