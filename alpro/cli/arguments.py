"""Arguments of the command line: texts are checked, `~` is expanded, and files may begin with a dash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from alpro.data.media.extensions import bare_name
from alpro.errors import DataError
from alpro.files.names import shown, text_fault

TEXTS = {"question", "text", "texts", "changes", "command"}  # parameters in which `~` is a character like any other


class Command(TyperCommand):
    """A command whose paths may begin with `~` or a dash."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse the arguments. Raises DataError for one that is not UTF-8, BadParameter for a file taken for an option."""
        for argument in args:
            if fault := text_fault(argument):
                raise DataError(f"argument '{shown(argument)}' {fault}")
        if not ctx.ignore_unknown_options:  # `launch` passes the options of another command on
            options = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
            args = _with_dashes(args, options)
        remaining = super().parse_args(ctx, args)
        for name, value in ctx.params.items():
            if name not in TEXTS:
                ctx.params[name] = [_expanded(item) for item in value] if isinstance(value, list) else _expanded(value)
        return remaining


def _expanded(value: Any) -> Any:
    """Return a path with `~` replaced by the home folder; the shell does not do this in `--option=~/folder`."""
    if isinstance(value, (str, Path)) and str(value).startswith("~"):
        return type(value)(os.path.expanduser(value))
    return value


def _with_dashes(args: list[str], options: set[str]) -> list[str]:
    """Return the arguments with `./` before files that begin with a dash, as the ids of some videos do."""
    end = args.index("--") if "--" in args else len(args)
    changed = list(args)
    for position, argument in enumerate(args[:end]):
        if not argument.startswith("-") or argument == "-" or argument.partition("=")[0] in options:
            continue
        if os.path.exists(argument):
            changed[position] = f"./{argument}"
        elif (bare_name(argument) != argument or " " in argument) and argument[:2] not in options:
            raise typer.BadParameter(
                f"{argument!r} begins with a dash and is taken for an option; "
                "put -- before the arguments that are none, or write ./ before a file"
            )
    return changed
