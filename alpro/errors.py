"""The package's exceptions: each message is one line that says what, where and what to do."""


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
