"""`alpro report`: the results of the whole pipeline."""

from __future__ import annotations

from pathlib import Path

from alpro.cli.app import add_group
from alpro.cli.options import PARAMS, ParamsFile

group = add_group("report", "The results of the whole pipeline.")


@group.command("make")
def report_make(params: ParamsFile = PARAMS, root: Path = Path("reports")) -> None:
    """Write reports/summary.json and reports/index.html from the stages' records."""
    from alpro.config import load
    from alpro.report import make_report

    make_report(load(params), root)


@group.command("show")
def report_show(params: ParamsFile = PARAMS, root: Path = Path("reports")) -> None:
    """Print the results table, and where to look next."""
    from alpro.config import load
    from alpro.report import show_report

    show_report(load(params), root)
