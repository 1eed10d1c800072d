"""`alpro launch`: run another command on several processes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from alpro.cli.app import MODELS, app, example_line
from alpro.cli.options import PARAMS, ParamsFile
from alpro.errors import LaunchError


@app.command(
    rich_help_panel=MODELS,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=example_line("launch -- evaluate --task msvd_qa --checkpoint models/sample/finetune/msvd_qa --record evaluation"),
)
def launch(
    command: Annotated[list[str], typer.Argument(help="An alpro command that trains or evaluates, with its options.")],
    params: ParamsFile = PARAMS,
) -> None:
    """Run another command on the processes and hosts of `launch` in params.yaml. Exit code 1 if one fails."""
    from alpro.config import load
    from alpro.launch import run
    from alpro.system import parent

    settings = load(params).launch
    parent.watch_pipeline()
    try:
        if run.in_this_process(settings):
            run.set_threads(settings.threads)
            app(command, standalone_mode=False)
        else:
            run.run_world(settings, [sys.executable, "-m", "alpro", *command])
    except LaunchError as error:
        typer.echo(f"alpro: {error}", err=True)
        raise typer.Exit(1) from None
