"""`alpro evaluate`, `compare` and `replicate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from alpro.cli.app import EVALUATION, app, example_line
from alpro.cli.options import (
    PARAMS,
    Answers,
    AsJson,
    Changes,
    Checkpoint,
    ParamsFile,
    Recipe,
    Step,
    Task,
    Tokenizer,
    read_params,
)

WITH_RECORD = {"zero_shot": "--zero-shot", "ablations": "--ablations"}
WITHOUT_RECORD = {
    "step": "--step",
    "videos": "--videos",
    "annotations": "--annotations",
    "answers": "--answers",
    "tokenizer": "--tokenizer",
    "batch_size": "--batch-size",
    "rerank": "--rerank",
    "rerank_for": "--rerank-for",
    "against_full": "--against-full",
    "features": "--features",
    "output": "--output",
}


@app.command(
    rich_help_panel=EVALUATION,
    epilog=example_line("evaluate --task msvd_qa --checkpoint models/sample/finetune/msvd_qa"),
)
def evaluate(
    context: typer.Context,
    task: Task,
    checkpoint: Checkpoint,
    record: Annotated[
        Path | None,
        typer.Option("--record", help="Evaluate as the pipeline does, with the settings of params.yaml, and write its record."),
    ] = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="With --record: use the settings under `zeroshot`.")] = False,
    ablations: Annotated[
        bool, typer.Option("--ablations/--no-ablations", help="With --record: also evaluate with one frame and with none.")
    ] = True,
    step: Step = "best",
    videos: Annotated[str | None, typer.Option(help="Folder with the videos (default: as in params.yaml).")] = None,
    annotations: Annotated[str | None, typer.Option(help="train, val or test.jsonl, or their folder.")] = None,
    answers: Answers = None,
    tokenizer: Tokenizer = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Text-video pairs per multimodal batch.")] = None,
    rerank: Annotated[int | None, typer.Option(min=1, help="Score only the K best clips of VTC by VTM.")] = None,
    rerank_for: Annotated[Literal["both", "text2video"] | None, typer.Option(help="Queries to re-rank.")] = None,
    against_full: Annotated[
        bool, typer.Option("--against-full", help="Also score all pairs, to show the effect of --rerank.")
    ] = False,
    features: Annotated[Path | None, typer.Option(help="Folder in which encoded videos are kept and reused.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for results_<split>/step_<N>/.")] = None,
    recipe: Recipe = None,
    params: ParamsFile = PARAMS,
    changes: Changes = None,
) -> None:
    """Evaluate a checkpoint: as the released code does, or with --record as the pipeline does."""
    from alpro.evaluation.clips import VIDEO_MODES
    from alpro.evaluation.official import evaluate_checkpoint
    from alpro.evaluation.run import run_evaluation

    _refuse_unused_options(context, record)
    settings = read_params(params, recipe, changes)
    if record is not None:
        modes = VIDEO_MODES if ablations else VIDEO_MODES[:1]
        run_evaluation(settings, task, checkpoint=checkpoint, record=record, zero_shot=zero_shot, modes=modes)
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


def _refuse_unused_options(context: typer.Context, record: Path | None) -> None:
    """Raise a usage error for an option that this kind of evaluation would ignore."""
    unused = WITH_RECORD if record is None else WITHOUT_RECORD
    given = [flag for name, flag in unused.items() if _is_typed(context, name)]
    if given and record is None:
        raise typer.BadParameter(f"{', '.join(given)}: only with --record, which evaluates as the pipeline does")
    if given:
        raise typer.BadParameter(
            f"{', '.join(given)}: not with --record, which takes its settings from params.yaml; "
            "change them there or with -S, or leave out --record"
        )


def _is_typed(context: typer.Context, name: str) -> bool:
    """Return True if the option's value is from the command line, not its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@app.command(
    rich_help_panel=EVALUATION,
    epilog=example_line("compare reports/evaluate/msrvtt_ret reports/evaluate/msrvtt_ret_zeroshot"),
)
def compare(
    a: Annotated[Path, typer.Argument(help="Record of an evaluation, such as reports/evaluate/msrvtt_ret.")],
    b: Annotated[Path, typer.Argument(help="Record of another evaluation of the same queries.")],
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Compare two evaluations query by query, with intervals and p-values of a paired bootstrap."""
    from alpro.evaluation.compare import compare_runs, format_comparison

    typer.echo(format_comparison(compare_runs(a, b, resamples=resamples), as_json))


@app.command(rich_help_panel=EVALUATION, epilog=example_line("replicate --page tables.md"))
def replicate(
    page: Annotated[Path, typer.Option(help="Markdown file whose results table is updated.")] = Path("docs/replication.md"),
    output: Annotated[Path, typer.Option(help="Folder for the records.")] = Path("reports/replication"),
    recipe: Recipe = "official",
    changes: Changes = None,
) -> None:
    """Evaluate every checkpoint of the paper that is present, and update the table of results."""
    from alpro.evaluation.replication import replicate as run

    run(read_params(PARAMS, recipe, changes), page, output)
