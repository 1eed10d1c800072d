"""`alpro launch`: run another command on several processes."""

from __future__ import annotations

import sys

import typer

from alpro.cli.app import app
from alpro.cli.options import PARAMS, ParamsFile
from alpro.errors import LaunchError


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def launch(verb: list[str], params: ParamsFile = PARAMS) -> None:
    """Run a verb on many processes: alpro launch -- VERB."""
    from alpro.config import load
    from alpro.launch import run
    from alpro.system import parent

    settings = load(params).launch
    parent.watch_pipeline()
    try:
        if run.in_this_process(settings):
            run.set_threads(settings.threads)
            app(verb, standalone_mode=False)
        else:
            run.run_world(settings, [sys.executable, "-m", "alpro", *verb])
    except LaunchError as error:
        typer.echo(f"alpro: {error}", err=True)
        raise typer.Exit(1) from None
