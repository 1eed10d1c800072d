"""Sizes of a fine-tuning that suit the data and the machine: model, frames, batch, epochs.

The largest model of PRESETS that trains within the given minutes and memory is taken; a checkpoint brings its own. Epochs
fill the steps that a fine-tuning needs, as far as the minutes allow. Work and memory are estimated as in `alpro plan`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alpro.config import Finetuning, Model
from alpro.models import build_model
from alpro.own_data.machine import Machine
from alpro.planning.memory import estimate_memory
from alpro.training.flops import training_flops, validation_flops

# Models that are trained from scratch, smallest first, with their learning rates. ALPRO's own sizes need pre-training.
PRESETS = (
    (Model(image_size=64, patch_size=8, width=128, heads=4, intermediate=512, vision_layers=2, text_layers=2, fusion_layers=2,
           embed_dim=64, dropout=0.0, drop_path=0.0), 1e-3),
    (Model(image_size=112, patch_size=16, width=256, heads=4, intermediate=1024, vision_layers=4, text_layers=2,
           fusion_layers=2, embed_dim=128, dropout=0.1, drop_path=0.0), 5e-4),
)  # fmt: skip
CHECKPOINT_RATE = 5e-5  # of the released fine-tunings, 2.5e-5 to 5e-5
STEPS = {True: 1500, False: 400}  # optimizer steps that a fine-tuning should have: from scratch, from a checkpoint
BATCH = 16
STEPS_OF_EPOCH = 20  # that each process has at least, if there are several
MOST_EPOCHS = 40
VALIDATIONS = 4
VALIDATION_SHARE = 0.2  # of the minutes, as retrieval scores all pairs of the split
LONG_S = 8.0  # of longer videos, twice as many frames are read
MEMORY_SHARE = 0.6  # of the available memory that the estimate may take
TOKENS_STEP = 10


@dataclass(frozen=True)
class Split:
    """Number of videos of a split and of their texts."""

    videos: int
    texts: int


@dataclass(frozen=True)
class Sizes:
    """Chosen sizes: the model, the fine-tuning's section of params.yaml, the number of processes, and the estimates."""

    model: Model
    training: Finetuning
    processes: int
    steps: int
    minutes: float
    memory: float  # bytes of one process


def text_tokens(lengths: Sequence[int], limit: int) -> int:
    """Return a max_text_tokens that holds 99 of 100 texts, given their lengths in tokens."""
    longest = sorted(lengths)[math.ceil(0.99 * len(lengths)) - 1]
    return min(max(20, TOKENS_STEP * math.ceil(longest / TOKENS_STEP)), limit)


def choose_sizes(
    task: str,
    train: Split,
    val: Split,
    *,
    tokens: int,
    vocab_size: int,
    seconds: float,
    answers: int,
    machine: Machine,
    minutes: float,
    checkpoint: Model | None = None,
    num_frames: int | None = None,
) -> Sizes:
    """Return the sizes for a dataset.

    tokens: max_text_tokens; seconds: median duration of the videos; answers: length of the answer list, for qa; minutes: that
    the training may take; checkpoint, num_frames: sizes of the model that the training starts from, None from scratch.
    """
    frames = num_frames or (8 if seconds > LONG_S else 4)
    if checkpoint is not None:
        candidates = [(checkpoint, CHECKPOINT_RATE)]
    else:
        positions = max(64, tokens)
        candidates = [
            (model.model_copy(update={"vocab_size": vocab_size, "max_positions": positions}), rate) for model, rate in PRESETS
        ]
    chosen = None
    for model, rate in candidates:
        sizes = _sizes(task, model, rate, train, val, frames, tokens, answers, machine, minutes, checkpoint is None)
        fits = sizes.minutes <= minutes and sizes.steps >= STEPS[checkpoint is None] / 2 and sizes.memory <= _limit(machine)
        if chosen is None or fits:
            chosen = sizes
    assert chosen is not None
    return chosen


def _limit(machine: Machine) -> float:
    return MEMORY_SHARE * machine.memory


def _sizes(
    task: str, model: Model, rate: float, train: Split, val: Split, frames: int, tokens: int, answers: int,
    machine: Machine, minutes: float, scratch: bool,
) -> Sizes:  # fmt: skip
    processes = max(min(machine.gpus, train.texts // (BATCH * STEPS_OF_EPOCH)), 1)  # a small set is not divided
    flops = machine.flops * processes / max(machine.gpus, 1)
    shared = next(n for n in (4, 2, 1) if train.texts / train.videos >= n) if task == "qa" else 1
    batch = _power_of_two(min(BATCH, max(2 if task == "retrieval" else 1, shared * (train.videos // processes))))
    shared = min(shared, batch)
    built = build_model(task, num_frames=frames, config=model, num_answers=answers, seed=None)
    parameters = sum(p.numel() for p in built.parameters())
    precision = "bf16" if machine.gpus else "fp32"

    def peak(batch: int) -> float:
        return estimate_memory(
            task, model, trained=parameters, frozen=0, frames=frames, text_tokens=tokens, batch=batch, checkpointing="none",
            precision=precision, texts_per_clip=min(shared, batch),
        ).peak  # fmt: skip

    accumulation = 1
    while batch > 2 * shared and peak(batch) > _limit(machine):
        batch, accumulation = batch // 2, 2 * accumulation
    steps = max(train.texts // (batch * accumulation * processes), 1)  # of an epoch
    epoch_s = training_flops(task, model, frames, tokens, shared) * batch * accumulation * processes * steps / flops
    validation_s = validation_flops(task, model, frames, tokens, val.videos, val.texts) / flops
    validations = max(min(VALIDATIONS, int(VALIDATION_SHARE * 60 * minutes / validation_s)), 1)
    affordable = int((60 * minutes - validations * validation_s) / epoch_s)
    epochs = max(min(math.ceil(STEPS[scratch] / steps), MOST_EPOCHS, affordable), 1)
    training = Finetuning(
        epochs=epochs, batch_size=batch, accumulation=accumulation, learning_rate=rate, grad_clip=5, num_frames=frames,
        max_text_tokens=tokens, validations=min(validations, epochs * steps), train_frames="headtail",
        frame_candidates=4 * frames, eval_frames="uniform", randaugment=None, precision=precision,
        select_by="overall_acc" if task == "qa" else "r1", save_every_s=60, questions_per_clip=shared,
    )  # fmt: skip
    total = (epochs * epoch_s + training.validations * validation_s) / 60
    return Sizes(model, training, processes, epochs * steps, total, peak(batch))


def _power_of_two(number: int) -> int:
    return 1 << (number.bit_length() - 1)
