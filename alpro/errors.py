"""The exceptions of the package. Each message is one line: what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from typing import Any


class AlproError(Exception):
    """Base of the errors that the command line prints as one line, with exit code 2."""


class ConfigError(AlproError):
    """params.yaml or an option has an invalid value."""


class DataError(AlproError):
    """An annotation file, a video or a dataset cannot be used."""


class OutputError(AlproError):
    """An output folder cannot be written, as it contains files that are not the command's own."""


class CheckpointError(AlproError):
    """A checkpoint is missing, damaged, unsafe, or belongs to another model."""


class LaunchError(AlproError):
    """The processes of a distributed run could not be started, or one of them failed."""


class TrainingError(AlproError):
    """A training stopped itself: non-finite numbers, too many unreadable videos, or a lost loader process."""


class TrackingError(AlproError):
    """The tracking store cannot be reached, or has unexpected content."""


def nearest(name: str, known: Any) -> str:
    """Return `; did you mean 'x'?`, or an empty string if no known name is similar."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""
