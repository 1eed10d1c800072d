"""`alpro train`: the four trainings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alpro.cli.app import add_group
from alpro.cli.options import PARAMS, Changes, Init, MaxSteps, Output, ParamsFile, Recipe, Record, Task, Teacher, read_params

if TYPE_CHECKING:
    from alpro.config import Params

group = add_group("train", "Train one of the four models.")


@group.command("prompter")
def train_prompter(
    init: Init,
    output: Output,
    record: Record = None,
    params: ParamsFile = PARAMS,
    recipe: Recipe = None,
    changes: Changes = None,
    max_steps: MaxSteps = None,
) -> None:
    """Train the prompter (VTC alone) on the caption corpora."""
    _train(read_params(params, recipe, changes), "prompter", None, init, None, output, record, max_steps)


@group.command("pretrain")
def train_pretrain(
    init: Init,
    teacher: Teacher,
    output: Output,
    record: Record = None,
    params: ParamsFile = PARAMS,
    recipe: Recipe = None,
    changes: Changes = None,
    max_steps: MaxSteps = None,
) -> None:
    """Pre-train the video-language model (VTC, VTM, MLM, PEM)."""
    _train(read_params(params, recipe, changes), "pretrain", None, init, teacher, output, record, max_steps)


@group.command("finetune")
def train_finetune(
    task: Task,
    init: Init,
    output: Output,
    record: Record = None,
    params: ParamsFile = PARAMS,
    recipe: Recipe = None,
    changes: Changes = None,
    max_steps: MaxSteps = None,
) -> None:
    """Fine-tune for a down-stream data set."""
    _train(read_params(params, recipe, changes), "finetune", task, init, None, output, record, max_steps)


def _train(
    settings: Params,
    stage: str,
    task: str | None,
    init: str,
    teacher: str | None,
    output: Path,
    record: Path | None,
    max_steps: int | None,
) -> None:
    from alpro.training.run import run_training

    record = record or output / "record"
    run_training(settings, stage, task, init=init, teacher=teacher, output=output, record=record, max_steps=max_steps)
