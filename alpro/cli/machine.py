"""`alpro preflight` and `doctor`: checks of the inputs and of this machine."""

from __future__ import annotations

from pathlib import Path

import typer

from alpro.cli.app import MACHINE, PIPELINE, app, example_line
from alpro.cli.options import PARAMS, AsJson, ParamsFile, print_json


@app.command(rich_help_panel=PIPELINE, epilog=example_line("preflight"))
def preflight(params: ParamsFile = PARAMS) -> None:
    """Check git and params.yaml, and list all missing inputs."""
    from alpro.checks.preflight import check, check_git
    from alpro.config import load

    if warning := check_git(Path()):
        typer.echo(f"alpro: warning: {warning}", err=True)
    check(load(params))


@app.command(rich_help_panel=MACHINE, epilog=example_line("doctor"))
def doctor(as_json: AsJson = False) -> None:
    """Report what works on this machine. Exit code 1 if something needed does not work."""
    from alpro.checks.doctor import as_dict, diagnose, show

    findings = diagnose()
    if as_json:
        print_json(as_dict(findings))
    else:
        typer.echo(show(findings))
    raise typer.Exit(int(any(finding.status == "fail" for finding in findings)))
