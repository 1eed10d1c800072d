"""The command line application, to which each module of this package adds its commands."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="alpro",
    help="ALPRO: video-and-language pre-training with entity prompts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def add_group(name: str, help: str) -> typer.Typer:
    """Add a group of commands to the application and return it."""
    group = typer.Typer(help=help, no_args_is_help=True)
    app.add_typer(group, name=name)
    return group
