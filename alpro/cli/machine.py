"""`alpro preflight` and `doctor`: checks of this machine and of params.yaml."""

from __future__ import annotations

import typer

from alpro.cli.app import app
from alpro.cli.options import PARAMS, ParamsFile


@app.command()
def preflight(params: ParamsFile = PARAMS) -> None:
    """Check params.yaml and list all missing inputs."""
    from alpro.checks import preflight as checks
    from alpro.config import load

    checks.check(load(params))


@app.command()
def doctor() -> None:
    """Tell what works on this machine."""
    from alpro.checks import doctor as checks

    raise typer.Exit(checks.main())
