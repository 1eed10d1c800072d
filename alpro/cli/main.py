"""Entry point of the command line."""

from __future__ import annotations

import sys

import typer

# Importing a module adds its commands; the order is that of the help page.
from alpro.cli import params  # noqa: F401  # isort: skip
from alpro.cli import machine  # noqa: F401  # isort: skip
from alpro.cli import data  # noqa: F401  # isort: skip
from alpro.cli import train, launch, ask, weights  # noqa: F401  # isort: skip
from alpro.cli import evaluate, report  # noqa: F401  # isort: skip
from alpro.cli import registry  # noqa: F401  # isort: skip
from alpro.cli.app import app
from alpro.errors import AlproError


def main() -> None:
    """Run the command line; an error that the package foresees is one line and exit code 2."""
    try:
        app(standalone_mode=True)
    except AlproError as error:
        typer.echo(f"alpro: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # a full disk, a missing permission
        if error.filename is None and error.errno is None:
            raise
        typer.echo(f"alpro: {error.filename or 'output'}: {error.strerror}", err=True)
        sys.exit(2)
