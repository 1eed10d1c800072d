"""Entry point of the command line."""

from __future__ import annotations

import sys

import typer

from alpro.cli import ask, data, evaluate, launch, machine, params, registry, report, train, weights  # noqa: F401
from alpro.cli.app import app
from alpro.errors import AlproError


def main() -> None:
    """Run; a fault that the package foresees is one line and exit code 2."""
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
