"""`alpro report`: the results of the whole pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpro.cli.app import EVALUATION, add_group, example_line
from alpro.cli.options import PARAMS, ParamsFile

group = add_group("report", "Show the results of the whole pipeline.", EVALUATION)

Root = Annotated[Path, typer.Option(help="Folder with the records of the stages.")]


@group.command("make", epilog=example_line("report make"))
def report_make(params: ParamsFile = PARAMS, root: Root = Path("reports")) -> None:
    """Write reports/summary.json and reports/index.html from the records of the stages."""
    from alpro.config import load
    from alpro.report import make_report

    make_report(load(params), root)


@group.command("show", epilog=example_line("report show"))
def report_show(params: ParamsFile = PARAMS, root: Root = Path("reports")) -> None:
    """Print the results table, and where to find more."""
    from alpro.config import load
    from alpro.report import show_report

    show_report(load(params), root)
