"""`alpro train`: the four trainings."""

from __future__ import annotations

from alpro.cli.app import MODELS, add_group, example_line
from alpro.cli.options import (
    PARAMS,
    Changes,
    Init,
    MaxSteps,
    Output,
    ParamsFile,
    Recipe,
    Record,
    Task,
    Teacher,
    read_params,
)

group = add_group("train", "Train the prompter, pre-train, or fine-tune.", MODELS)


@group.command(
    "prompter", epilog=example_line("train prompter --init recipes/init/scratch.yaml --output prompter --max-steps 5")
)
def train_prompter(
    init: Init,
    output: Output,
    record: Record = None,
    params: ParamsFile = PARAMS,
    recipe: Recipe = None,
    changes: Changes = None,
    max_steps: MaxSteps = None,
) -> None:
    """Train the prompter (VTC only) on the caption corpora."""
    from alpro.training.run import run_training

    settings = read_params(params, recipe, changes)
    run_training(settings, "prompter", init=init, output=output, record=record or output / "record", max_steps=max_steps)


@group.command(
    "pretrain",
    epilog=example_line(
        "train pretrain --init models/sample/prompter --teacher models/sample/prompter --output pretrained --max-steps 5"
    ),
)
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
    from alpro.training.run import run_training

    settings = read_params(params, recipe, changes)
    record = record or output / "record"
    run_training(settings, "pretrain", init=init, teacher=teacher, output=output, record=record, max_steps=max_steps)


@group.command(
    "finetune",
    epilog=example_line("train finetune --task msvd_qa --init models/sample/pretrain --output finetuned --max-steps 5"),
)
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
    """Fine-tune for a retrieval or question answering dataset."""
    from alpro.training.run import run_training

    settings = read_params(params, recipe, changes)
    record = record or output / "record"
    run_training(settings, "finetune", task, init=init, output=output, record=record, max_steps=max_steps)
