"""`alpro recipe`, `config`, `ablations` and `plan`: parameter files and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpro.cli.app import add_group, app
from alpro.cli.options import PARAMS, Changes, ParamsFile, Recipe, read_params

recipe = add_group("recipe", "Complete parameter sets.")
config = add_group("config", "Configuration files of the released code.")


@recipe.command("use")
def recipe_use(name: str) -> None:
    """Write params.yaml from a recipe."""
    from alpro.config import recipes

    recipes.use(name)
    typer.echo(f"params.yaml now is recipe {name}: {recipes.describe(name)}")


@recipe.command("list")
def recipe_list() -> None:
    """Show the recipes."""
    from alpro.config import recipes

    for name in recipes.names():
        typer.echo(f"{name:10} {recipes.describe(name)}")


@config.command("import")
def config_import(
    files: Annotated[list[Path], typer.Argument(help="Files of config_release/, or a training's log/args.json.")],
    name: Annotated[str, typer.Option(help="The recipe's name, and the folder under models/.")] = "imported",
    output: Annotated[Path, typer.Option(help="Where the parameters are written.")] = PARAMS,
) -> None:
    """Turn released configurations into parameters, and say what became of each key."""
    from alpro.config.released import import_configs

    found = import_configs(files, name)
    found.write(output)
    typer.echo(f"{found}\n{output}: written; what is not named here is as in recipe official")


@app.command()
def ablations(params: ParamsFile = PARAMS) -> None:
    """Print the paper's ablations: each cell's settings as a command, and its figures."""
    from alpro.config import ablations as grid
    from alpro.config import load

    typer.echo(grid.table(load(params)))


@app.command()
def plan(
    gpus: Annotated[int | None, typer.Option(min=1, help="How many; if not the parameters' launch.processes.")] = None,
    gpu: Annotated[str, typer.Option(help="h200, h100, a100, l40, l4, v100 or 4090.")] = "h100",
    tflops: Annotated[float | None, typer.Option(help="Another device, by its peak.")] = None,
    mfu: Annotated[float | None, typer.Option(help="The assumed share of the peak.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    recipe: Recipe = None,
    params: ParamsFile = PARAMS,
    changes: Changes = None,
) -> None:
    """Say what the trainings will take: steps, FLOPs, memory, hours, disk."""
    from alpro.planning.tables import print_plan

    print_plan(read_params(params, recipe, changes), gpus, gpu, tflops, mfu, as_json)
