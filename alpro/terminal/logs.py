"""The package's log: named loggers below `alpro`, printed as plain lines, by rich on a terminal, or as JSON.

ALPRO_LOG=json prints one JSON object per line; ALPRO_LOG_LEVEL is debug, info (the default), warning or error, as set by `-v`
and `-q`. Processes that a command starts inherit both. A program that imports the package and prints the messages of the root
logger itself gets each of them once, from there.

The progress of trainings and launches goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from functools import cache
from typing import Any, TextIO, cast

from alpro.errors import ConfigError
from alpro.terminal.console import SafeStream, say

FORMAT, LEVEL = "ALPRO_LOG", "ALPRO_LOG_LEVEL"
FORMATS = ("text", "json")
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
ON_STDOUT = ("alpro.training", "alpro.launch")
FIELDS = "fields"  # attribute of a record: a dictionary that JSON adds to the message


def configure(verbose: int = 0, quiet: int = 0) -> None:
    """Set the level for this process and those that it starts: `-v` is debug, `-q` warning, `-qq` error.

    Raises ConfigError if ALPRO_LOG or ALPRO_LOG_LEVEL has a value that is not known.
    """
    if verbose or quiet:
        os.environ[LEVEL] = "debug" if verbose > quiet else {0: "info", 1: "warning"}.get(quiet - verbose, "error")
    level, shape = os.environ.get(LEVEL) or "info", os.environ.get(FORMAT) or "text"
    if level not in LEVELS:
        raise ConfigError(f"{LEVEL}={level}: not a level; use {', '.join(LEVELS)}")
    if shape not in FORMATS:
        raise ConfigError(f"{FORMAT}={shape}: not a format; use {' or '.join(FORMATS)}")
    root().setLevel(LEVELS[level])


def is_json() -> bool:
    """Return True if messages are printed as JSON."""
    return os.environ.get(FORMAT) == "json"


def shows_progress() -> bool:
    """Return True if progress bars and messages of level info are shown."""
    return not is_json() and root().isEnabledFor(logging.INFO)


@cache
def root() -> logging.Logger:
    """Return the package's own logger, with its handler."""
    logger = logging.getLogger("alpro")
    logger.addHandler(_Handler())
    if logger.level == logging.NOTSET:
        logger.setLevel(LEVELS.get(os.environ.get(LEVEL, ""), logging.INFO))
    return logger


def get(name: str) -> logging.Logger:
    """Return the logger of a module, `logs.get(__name__)`."""
    root()
    return logging.getLogger(name)


class _Handler(logging.Handler):
    """Prints to the streams of the moment, which tests and progress bars replace; a closed one never ends the program."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message, unless the root logger prints it."""
        if _root_prints():
            return
        progress = record.levelno < logging.WARNING and record.name.startswith(ON_STDOUT)
        stream = sys.stdout if progress else sys.stderr
        try:
            if is_json():
                say(_json(record), stream)
            elif record.levelno == logging.INFO or not stream.isatty():
                say(_plain(record), stream)
            else:
                _print_rich(record, stream)
        except Exception:  # as logging's own handlers do
            self.handleError(record)


def _root_prints() -> bool:
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return any(isinstance(one, logging.StreamHandler) and one.stream in streams for one in logging.getLogger().handlers)


def _plain(record: logging.LogRecord) -> str:
    text = _text(record)
    if record.levelno == logging.INFO or text.startswith("alpro"):
        return text
    return f"{record.name}: {text}" if record.levelno == logging.DEBUG else f"alpro: {record.levelname.lower()}: {text}"


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    return f"{text}\n{logging.Formatter().formatException(record.exc_info)}" if record.exc_info else text


def _json(record: logging.LogRecord) -> str:
    """Return one line: time, level, logger, message, and the fields that the caller gave in `extra`."""
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    head: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "logger": record.name, "message": _text(record)}
    return json.dumps({**getattr(record, FIELDS, {}), **head}, default=str)


def _print_rich(record: logging.LogRecord, stream: TextIO) -> None:
    """Print with the level in colour, by rich's handler."""
    from rich.console import Console
    from rich.logging import RichHandler

    console = Console(file=cast(TextIO, SafeStream(stream)), soft_wrap=True)
    RichHandler(console=console, show_time=record.levelno < logging.INFO, show_path=False, markup=False).emit(record)
