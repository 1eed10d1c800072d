"""`alpro stage`: the command that every stage of dvc.yaml runs."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from alpro.cli.app import PIPELINE, app, example_line
from alpro.cli.options import PARAMS, ParamsFile


@app.command(rich_help_panel=PIPELINE, epilog=example_line("stage validate@msvd_qa"))
def stage(
    name: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of dvc.yaml, such as report or evaluate@msvd_qa.")],
    params: ParamsFile = PARAMS,
) -> None:
    """Run the command of one stage, with the values of params.yaml. `dvc repro` calls this."""
    from alpro.config import load
    from alpro.config.pipeline import NEEDED, stage_command, unneeded_output

    loaded = load(params)
    words = stage_command(loaded, name)
    if output := unneeded_output(loaded, name):
        typer.echo(f"the report does not need {output}; if this is not what you want, stop and run {NEEDED}", err=True)
    typer.echo(f"> alpro {shlex.join(words)}", err=True)
    raise typer.Exit(app(words, standalone_mode=False) or 0)
