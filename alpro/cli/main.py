"""Entry point of the command line."""

from __future__ import annotations

import atexit
import gc
import io
import sys

import typer

# Importing a module adds its commands; the order is that of the help page.
from alpro.cli import params  # noqa: F401  # isort: skip
from alpro.cli import machine, check, stage  # noqa: F401  # isort: skip
from alpro.cli import data  # noqa: F401  # isort: skip
from alpro.cli import train, launch, ask, serve, weights  # noqa: F401  # isort: skip
from alpro.cli import evaluate, predict, report  # noqa: F401  # isort: skip
from alpro.cli import registry  # noqa: F401  # isort: skip
from alpro.cli.app import app
from alpro.errors import AlproError
from alpro.files.names import encodable
from alpro.files.state import write_hint
from alpro.terminal import logs


def main() -> None:
    """Run the command line; an error that the package foresees is one line and exit code 2."""
    # The large libraries make half a million objects. Python would search them for garbage again and again during the imports,
    # and once more at the exit: 2 of the 5 seconds of a command that only imports them.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal lacks is printed as its escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(standalone_mode=True)
    except AlproError as error:
        if logs.is_json():
            logs.get("alpro.cli").error("%s", encodable(str(error)))
        else:
            typer.echo(f"alpro: {encodable(str(error))}", err=True)
        sys.exit(2)
    except UnicodeEncodeError as error:
        typer.echo(f"alpro: a text or name is not UTF-8 ('{encodable(error.object)[:80]}'); write it in UTF-8", err=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a missing permission
        if error.filename is None and error.errno is None:
            raise
        name = encodable(str(error.filename or "output"))
        typer.echo(f"alpro: {name}: {error.strerror}{write_hint(error.filename)}", err=True)
        sys.exit(2)
