"""`alpro report`: the results of the whole pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpro.cli.app import EVALUATION, add_group, example_line
from alpro.cli.options import PARAMS, AsJson, ParamsFile, print_json

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


@group.command("spread", epilog=example_line("report spread baseline"))
def report_spread(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Experiments, or sweeps by name (default: all)."),
    ] = None,
    all_commits: Annotated[bool, typer.Option("--all-commits", help="Include experiments of other commits.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print mean and spread of DVC experiments that differ only in their seed."""
    import rich

    from alpro.lineage.experiments import experiments
    from alpro.report.spread import group_by_seed, select, spread_table

    groups = group_by_seed(select(experiments(Path.cwd(), all_commits), names or []))
    if as_json:
        print_json([group.as_dict() for group in groups])
    else:
        rich.print(spread_table(groups))
