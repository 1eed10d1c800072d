"""The command line: every verb in one line of `alpro --help`. No logic here; heavy imports stand where they are used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from alpro.errors import AlproError

app = typer.Typer(name="alpro", help="ALPRO: video-and-language pre-training with entity prompts.", no_args_is_help=True, add_completion=False)
data = typer.Typer(help="Make, index and check data.", no_args_is_help=True)
train = typer.Typer(help="Train one of the four models.", no_args_is_help=True)
recipe = typer.Typer(help="Complete parameter sets.", no_args_is_help=True)
track = typer.Typer(help="MLflow: fill in what is missing, show what is there.", no_args_is_help=True)
report = typer.Typer(help="The results of the whole pipeline.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(train, name="train")
app.add_typer(recipe, name="recipe")
app.add_typer(track, name="track")
app.add_typer(report, name="report")

ParamsFile = Annotated[Path, typer.Option("--params", help="Parameter file.")]
PARAMS = Path("params.yaml")
Output = Annotated[Path, typer.Option("--output", help="Folder of the checkpoint.")]
Record = Annotated[Path | None, typer.Option("--record", help="Folder of the stage's record; default: `record` inside the output.")]


@recipe.command("use")
def recipe_use(name: str) -> None:
    """Write params.yaml from a recipe."""
    from alpro import recipes

    recipes.use(name)
    typer.echo(f"params.yaml now is recipe {name}: {recipes.describe(name)}")


@recipe.command("list")
def recipe_list() -> None:
    """Show the recipes."""
    from alpro import recipes

    for name in recipes.names():
        typer.echo(f"{name:10} {recipes.describe(name)}")


@app.command()
def preflight(params: ParamsFile = PARAMS) -> None:
    """Check params.yaml and list all missing inputs, before the first stage."""
    from alpro import preflight as checks
    from alpro.config import load

    checks.check(load(params))


@app.command()
def doctor() -> None:
    """Tell what works on this machine."""
    from alpro import doctor as checks

    raise typer.Exit(checks.main())


@data.command("sample")
def data_sample(params: ParamsFile = PARAMS, root: Path = Path("data/sample"), workers: int | None = None) -> None:
    """Make the sample videos and annotations."""
    from alpro.config import load
    from alpro.data.sample import make_sample
    from alpro.errors import ConfigError

    settings = load(params).sample
    if settings is None:
        raise ConfigError(f"{params}: `sample` is null: this recipe works on real data")
    make_sample(settings, root, workers=workers)


@data.command("vocabulary")
def data_vocabulary(params: ParamsFile = PARAMS) -> None:
    """Make a WordPiece vocabulary from all training captions and questions."""
    from alpro.config import load
    from alpro.data.prepare import make_vocabulary

    make_vocabulary(load(params))


@data.command("entities")
def data_entities(output: Path, params: ParamsFile = PARAMS) -> None:
    """Write the entity list: the most frequent nouns of the pre-training captions."""
    from alpro.config import load
    from alpro.data.prepare import make_entities

    make_entities(load(params), output)


@data.command("validate")
def data_validate(name: str, passed: Path, output: Path, params: ParamsFile = PARAMS) -> None:
    """Validate a corpus or data set with Great Expectations."""
    from alpro.config import load
    from alpro.data.prepare import validate_set

    validate_set(load(params), name, passed=passed, output=output)


@train.command("prompter")
def train_prompter(init: str, output: Output, record: Record = None, params: ParamsFile = PARAMS, max_steps: int | None = None) -> None:
    """Train the prompter (VTC alone) on the caption corpora."""
    _train("prompter", None, params, init, None, output, record, max_steps)


@train.command("pretrain")
def train_pretrain(
    init: str, teacher: str, output: Output, record: Record = None, params: ParamsFile = PARAMS, max_steps: int | None = None
) -> None:
    """Pre-train the video-language model (VTC, VTM, MLM, PEM)."""
    _train("pretrain", None, params, init, teacher, output, record, max_steps)


@train.command("finetune")
def train_finetune(
    task: str, init: str, output: Output, record: Record = None, params: ParamsFile = PARAMS, max_steps: int | None = None
) -> None:
    """Fine-tune for a down-stream data set."""
    _train("finetune", task, params, init, None, output, record, max_steps)


def main() -> None:
    """Run; a fault that the package foresees is one line and exit code 2."""
    try:
        app(standalone_mode=True)
    except AlproError as error:
        typer.echo(f"alpro: {error}", err=True)
        sys.exit(2)
