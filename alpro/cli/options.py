"""The options that several commands share, and how a command gets its parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from alpro.config import Params


ParamsFile = Annotated[Path, typer.Option("--params", help="Parameter file.")]


PARAMS = Path("params.yaml")


Output = Annotated[Path, typer.Option("--output", help="Folder of the checkpoint.")]


Init = Annotated[str, typer.Option("--init", help="Where to start: a checkpoint, own or official, or a file of recipes/init.")]


Teacher = Annotated[str, typer.Option("--teacher", help="The prompter that gives PEM's labels, own or official.")]


Task = Annotated[str, typer.Option("--task", help="A data set of params.yaml.")]


Record = Annotated[
    Path | None, typer.Option("--record", help="Folder of the record: parameters, history, figures; else OUTPUT/record.")
]


Checkpoint = Annotated[str, typer.Option("--checkpoint", help="Own or official, or an official output folder.")]


Step = Annotated[str, typer.Option("--step", help="Of an output folder: best, last or a number.")]


Tokenizer = Annotated[str | None, typer.Option("--tokenizer", help="Folder of the vocabulary, if not the checkpoint's.")]


Frames = Annotated[str | None, typer.Option("--frames", help="uniform, uniform_floor or headtail, if not the training's.")]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


Recipe = Annotated[str | None, typer.Option("--recipe", help="Read this recipe in place of params.yaml.")]


Changes = Annotated[list[str] | None, typer.Option("-S", "--set-param", metavar="KEY=VALUE", help="Change a parameter.")]


MaxSteps = Annotated[int | None, typer.Option(min=1, help="Stop after so many optimizer steps.")]


Flow = Annotated[str | None, typer.Option(help="The Prefect run that made the state; what was made before keeps its own.")]


Experiment = Annotated[str | None, typer.Option(help="The DVC experiment that holds the state.")]


Candidates = Annotated[str | None, typer.Option(metavar="TASK,...", help="Only their `candidate` moves; '': none.")]


def read_params(params: Path, recipe: str | None, changes: list[str] | None) -> Params:
    """The parameters that a verb works with: params.yaml's or a recipe's, with what -S changes."""
    from alpro.config import load, recipes

    return load(recipes.path_of(recipe) if recipe else params, changes or ())


def listed(names: str | None) -> list[str] | None:
    return None if names is None else [name for name in names.split(",") if name]
