"""Options that several commands share, and how a command reads its parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from alpro.config import Params

PARAMS = Path("params.yaml")
ParamsFile = Annotated[Path, typer.Option("--params", help="Parameter file to read.")]
Recipe = Annotated[str | None, typer.Option("--recipe", help="Read this recipe instead of params.yaml.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("-S", "--set-param", metavar="KEY=VALUE", help="Change a parameter, as in `dvc exp run`; repeatable."),
]
Task = Annotated[str, typer.Option("--task", help="A dataset of params.yaml, such as msrvtt_ret.")]
Init = Annotated[str, typer.Option("--init", help="Where to start: an own or official checkpoint, or a file in recipes/init.")]
Teacher = Annotated[str, typer.Option("--teacher", help="The prompter that labels crops for PEM; own or official.")]
Output = Annotated[Path, typer.Option("--output", help="Checkpoint directory to write.")]
Record = Annotated[
    Path | None,
    typer.Option("--record", help="Folder for parameters, history and metrics (default: OUTPUT/record)."),
]
MaxSteps = Annotated[int | None, typer.Option(min=1, help="Stop after this many optimizer steps.")]
Checkpoint = Annotated[
    str, typer.Option("--checkpoint", help="Checkpoint to load: own, official, or an official output folder.")
]
Step = Annotated[str, typer.Option("--step", help="Which step of an official output folder: best, last or a number.")]
Tokenizer = Annotated[
    str | None, typer.Option("--tokenizer", help="Folder with the vocabulary (default: the checkpoint's own).")
]
Answers = Annotated[str | None, typer.Option("--answers", help="Answer list (default: the checkpoint's own).")]
Frames = Annotated[
    str | None,
    typer.Option("--frames", help="Frame sampling: uniform, uniform_floor or headtail (default: as in training)."),
]
Replace = Annotated[bool, typer.Option("--replace", help="Overwrite the output file if it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Flow = Annotated[str | None, typer.Option(help="Prefect run to record as the origin of versions that name none.")]
Experiment = Annotated[str | None, typer.Option(help="DVC experiment that holds the state.")]
Candidates = Annotated[
    str | None,
    typer.Option(metavar="TASK,...", help="Tasks whose `candidate` alias is updated (default: all; empty: none)."),
]


def read_params(params: Path, recipe: str | None, changes: list[str] | None) -> Params:
    """Return the parameters of params.yaml or of a recipe, changed by `-S`."""
    from alpro.config import load, recipes

    return load(recipes.path_of(recipe) if recipe else params, changes or ())


def split_list(names: str | None) -> list[str] | None:
    """Split `a,b` into its names; None stays None."""
    return None if names is None else [name for name in names.split(",") if name]


def print_json(value: Any) -> None:
    """Print a value as JSON, and nothing else, on stdout."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))
