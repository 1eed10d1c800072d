"""`alpro predict`: predictions for test splits whose answers are hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpro.cli.app import EVALUATION, app, example_line
from alpro.cli.options import (
    PARAMS,
    Answers,
    Changes,
    Checkpoint,
    ParamsFile,
    Recipe,
    Replace,
    Step,
    Task,
    Tokenizer,
    read_params,
)

EXAMPLE = "predict --task msvd_qa --checkpoint models/sample/finetune/msvd_qa --annotations hidden.jsonl --output answers.jsonl"


@app.command(rich_help_panel=EVALUATION, epilog=example_line(EXAMPLE))
def predict(
    task: Task,
    checkpoint: Checkpoint,
    annotations: Annotated[Path, typer.Option(help="File with questions or captions; answers are not needed.")],
    output: Annotated[Path, typer.Option(help="The .jsonl or .csv file to write.")],
    step: Step = "best",
    videos: Annotated[str | None, typer.Option(help="Folder with the videos (default: as in params.yaml).")] = None,
    answers: Answers = None,
    tokenizer: Tokenizer = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Text-video pairs per multimodal batch.")] = None,
    rerank: Annotated[int | None, typer.Option(min=1, help="Score only the K best clips of VTC by VTM.")] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-k", min=1, help="Number of videos for each caption (default: 10).")
    ] = None,
    replace: Replace = False,
    recipe: Recipe = None,
    params: ParamsFile = PARAMS,
    changes: Changes = None,
) -> None:
    """Write answers or rankings for a test split whose answers are hidden, without metrics."""
    from alpro.evaluation.predict import predict as run

    run(
        read_params(params, recipe, changes), task, checkpoint, annotations=annotations, output=output, step=step,
        videos=videos, answers=answers, tokenizer=tokenizer, batch_size=batch_size, rerank=rerank, count=count,
        replace=replace,
    )  # fmt: skip
