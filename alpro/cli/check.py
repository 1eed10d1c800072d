"""`alpro check`: checks of what this machine is promised to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpro.cli.app import MACHINE, add_group, example_line

group = add_group("check", "Check what the package promises on this machine.", MACHINE)


@group.callback()
def check() -> None:
    """Check what the package promises on this machine."""


@group.command("gpu", epilog=example_line("check gpu --small"))
def check_gpu(
    small: Annotated[bool, typer.Option("--small", help="Tiny sizes on the CPU; steps that need CUDA are skipped.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="JSON file to write (default: benchmarks/gpu.json; with --small, .state/gpu-small.json)."),
    ] = None,
    wheels: Annotated[Path | None, typer.Option(help="Folder of wheels to use, for packages that are not installed.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run only the steps whose name begins so; repeatable.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Start no step after this time (default: 10; with --small, no limit).")
    ] = None,
) -> None:
    """Run every GPU path of the package and compare, measure and time it. Exit code 1 if a step fails."""
    from alpro.checks.gpu.run import Options
    from alpro.checks.gpu.run import check_gpu as run

    results = run(Options(small, output, wheels, only or (), minutes))
    raise typer.Exit(int(any(result.status == "failed" for result in results)))
