"""`alpro evaluate`, `compare` and `replicate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alpro.cli.app import app
from alpro.cli.options import PARAMS, AsJson, Changes, ParamsFile, Recipe, Task, read_params


@app.command()
def evaluate(
    task: Task,
    checkpoint: Annotated[str, typer.Option(help="A checkpoint, own or official, or an official output folder.")],
    record: Annotated[
        Path | None, typer.Option(help="Write a stage's record there, with the ablations, as params.yaml says.")
    ] = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="With --record: use the settings under `zeroshot`.")] = False,
    ablations: Annotated[
        bool, typer.Option("--ablations/--no-ablations", help="With --record: also with one frame, and with no picture.")
    ] = True,
    step: Annotated[str, typer.Option(help="Of an output folder: best, last or a number.")] = "best",
    videos: Annotated[str | None, typer.Option(help="Folder of the videos, if not params.yaml's.")] = None,
    annotations: Annotated[str | None, typer.Option(help="train, val or test.jsonl, or their folder.")] = None,
    answers: Annotated[str | None, typer.Option(help="The answer list, if not the checkpoint's.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder of the vocabulary, if not the checkpoint's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Text-video pairs of one multimodal batch.")] = None,
    rerank: Annotated[int | None, typer.Option(min=1, help="Score by VTM only the K best of VTC per query.")] = None,
    rerank_for: Annotated[Literal["both", "text2video"] | None, typer.Option(help="Which queries --rerank re-ranks.")] = None,
    against_full: Annotated[bool, typer.Option("--against-full", help="Also score all pairs: what --rerank changes.")] = False,
    features: Annotated[Path | None, typer.Option(help="Keep encoded videos there, and use those that are.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of results_<split>/step_<N>/.")] = None,
    recipe: Recipe = None,
    params: ParamsFile = PARAMS,
    changes: Changes = None,
) -> None:
    """Evaluate a checkpoint on a data set."""
    from alpro.evaluation.official import evaluate_checkpoint
    from alpro.evaluation.run import LOOKS, run_evaluation

    settings = read_params(params, recipe, changes)
    if record is not None:
        looks = LOOKS if ablations else LOOKS[:1]
        run_evaluation(settings, task, checkpoint=checkpoint, record=record, zero_shot=zero_shot, looks=looks)
        return
    evaluate_checkpoint(
        settings,
        task,
        checkpoint,
        step=step,
        videos=videos,
        annotations=annotations,
        answers=answers,
        tokenizer=tokenizer,
        batch_size=batch_size,
        rerank=rerank,
        rerank_for=rerank_for,
        against_full=against_full,
        features=features,
        output=output,
    )


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Record of an evaluation, as reports/evaluate/msrvtt_ret.")],
    b: Annotated[Path, typer.Argument(help="Another of the same queries.")],
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Compare two evaluations query by query: differences, intervals and p-values of a paired bootstrap."""
    from alpro.evaluation.compare import compare_runs, show

    typer.echo(show(compare_runs(a, b, resamples=resamples), as_json))


@app.command()
def replicate(
    readme: Annotated[Path, typer.Option(help="The file whose table is written.")] = Path("README.md"),
    output: Annotated[Path, typer.Option(help="Folder of the records.")] = Path("reports/replication"),
    recipe: Recipe = "official",
    changes: Changes = None,
) -> None:
    """Evaluate every checkpoint that is present; write the README's table."""
    from alpro.evaluation.replication import replicate as run

    run(read_params(PARAMS, recipe, changes), readme, output)
