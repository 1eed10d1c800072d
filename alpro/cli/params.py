"""`alpro recipe`, `config`, `ablations` and `plan`: parameter files and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpro.cli.app import MACHINE, PIPELINE, add_group, app, example_line
from alpro.cli.options import PARAMS, AsJson, Changes, ParamsFile, Recipe, print_json, read_params

recipe = add_group("recipe", "List the recipes and choose one.", PIPELINE)
config = add_group("config", "Parameter files: import those of the released code, print the schema.", PIPELINE)


@recipe.command("use", epilog=example_line("recipe use tiny"))
def recipe_use(name: Annotated[str, typer.Argument(help="Name of a file in recipes/.")]) -> None:
    """Write params.yaml from a recipe."""
    from alpro.config import recipes

    recipes.use(name)
    typer.echo(f"params.yaml is now recipe {name}: {recipes.describe(name)}")


@recipe.command("list", epilog=example_line("recipe list"))
def recipe_list() -> None:
    """List the recipes."""
    from alpro.config import recipes

    for name in recipes.names():
        typer.echo(f"{name:10} {recipes.describe(name)}")


@config.command("import", epilog=example_line("config import config_release/msrvtt_ret.json --output imported.yaml"))
def config_import(
    files: Annotated[list[Path], typer.Argument(help="Files of config_release/, or a training's log/args.json.")],
    name: Annotated[str, typer.Option(help="Name of the recipe, and of its folder in models/.")] = "imported",
    output: Annotated[Path, typer.Option(help="Parameter file to write.")] = PARAMS,
) -> None:
    """Convert released configurations to parameters, and report what became of each key."""
    from alpro.config.released import import_configs

    imported = import_configs(files, name)
    imported.write(output)
    typer.echo(f"{imported}\n{output}: written; parameters not named above are those of recipe official")


@config.command("schema", epilog=example_line("config schema"))
def config_schema() -> None:
    """Print the JSON schema of params.yaml, which params.schema.json keeps for editors."""
    from alpro.config.schema import schema_text

    typer.echo(schema_text(), nl=False)


@app.command(rich_help_panel=PIPELINE, epilog=example_line("ablations"))
def ablations(params: ParamsFile = PARAMS) -> None:
    """List the paper's ablations with the command and the paper's figures for each cell."""
    from alpro.config import load
    from alpro.config.ablations import table

    typer.echo(table(load(params).datasets))


@app.command(rich_help_panel=MACHINE, epilog=example_line("plan --recipe paper --gpus 16 --gpu a100"))
def plan(
    gpus: Annotated[int | None, typer.Option(min=1, help="Number of GPUs (default: launch.processes).")] = None,
    gpu: Annotated[str, typer.Option(help="GPU model: h200, h100, a100, l40, l4, v100 or 4090.")] = "h100",
    tflops: Annotated[float | None, typer.Option(help="Peak TFLOP/s of a device that is not listed.")] = None,
    mfu: Annotated[float | None, typer.Option(help="Assumed model FLOPs utilisation, from 0 to 1.")] = None,
    stages: Annotated[
        bool, typer.Option("--stages", help="Only list where each training and evaluation runs, and the memory it takes here.")
    ] = False,
    as_json: AsJson = False,
    recipe: Recipe = None,
    params: ParamsFile = PARAMS,
    changes: Changes = None,
) -> None:
    """Estimate steps, FLOPs, memory, hours and disk space of the trainings."""
    if stages:
        from alpro.planning.needs import stage_needs

        needs = stage_needs(read_params(params, recipe, changes))
        if as_json:
            print_json(needs.as_dict())
        else:
            typer.echo(needs)
        return
    from alpro.planning.tables import print_plan

    print_plan(read_params(params, recipe, changes), gpus, gpu, tflops, mfu, as_json)
