"""The command line application, to which each module of this package adds its commands."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from alpro.cli.arguments import Command
from alpro.terminal import logs

PIPELINE, DATA, MODELS = "Pipeline", "Data", "Models"
EVALUATION, REGISTRY, MACHINE = "Evaluation", "Tracking and registry", "This machine"
PANELS = (PIPELINE, DATA, MODELS, EVALUATION, REGISTRY, MACHINE)  # in the order of `alpro --help`


class Application(TyperGroup):
    """The top-level group: its help lists the commands by panel."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of the commands in the order of their panels."""
        return sorted(self.commands, key=lambda name: PANELS.index(self.commands[name].rich_help_panel))  # type: ignore[attr-defined]


class Commands(typer.Typer):
    """A group whose commands check their arguments (`arguments.Command`)."""

    def command(self, *args: Any, **settings: Any) -> Any:
        """Return the decorator that adds a command."""
        return super().command(*args, **{"cls": Command, **settings})


app = Commands(
    name="alpro",
    cls=Application,
    help="ALPRO: video-and-language pre-training with entity prompts (CVPR 2022).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback(invoke_without_command=True)
def version_option(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
    verbose: int = typer.Option(0, "-v", "--verbose", count=True, help="Also print messages of level debug."),
    quiet: int = typer.Option(0, "-q", "--quiet", count=True, help="Print only warnings and errors; -qq: only errors."),
) -> None:
    """ALPRO: video-and-language pre-training with entity prompts (CVPR 2022)."""
    logs.configure(verbose, quiet)
    if version:
        import alpro

        typer.echo(f"alpro {alpro.__version__}")
        raise typer.Exit


def add_group(name: str, help: str, panel: str) -> typer.Typer:
    """Add a group of commands to the application and return it."""
    group = Commands(help=help, no_args_is_help=True)
    app.add_typer(group, name=name, rich_help_panel=panel)
    return group


def example_line(command: str) -> str:
    """Return the last line of a command's help: a command that can be typed as it is."""
    return f"Example: alpro {command}"
