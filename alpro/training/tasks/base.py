"""The four trainings as the engine sees them: each puts together its model, its data, its losses and its validation.

`make_task(params, stage, name, ...)` gives the task of a stage: `prompter`, `pretrain`, or `finetune` for a data set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alpro import distributed
from alpro.checkpoints.start import start
from alpro.config import CorpusTraining, Params, Training
from alpro.data.batches.datasets import ClipDataset, Collator
from alpro.data.batches.loader import TrainLoader
from alpro.data.batches.sampler import BatchPlan
from alpro.data.text.tokenizer import TOKENIZER_FILES, load_tokenizer
from alpro.models import Alpro
from alpro.training.flops import training_flops


class ClipTask(ABC):
    """What the four have in common: clips with text, batched by a plan."""

    kind: str  # as `build_model` knows it
    model: Alpro
    losses: Sequence[str]
    metrics: Sequence[str]

    def __init__(self, params: Params, settings: Training, datasets: Mapping[str, ClipDataset], collator: Collator) -> None:
        self.params, self.settings, self.collator, self.datasets = params, settings, collator, dict(datasets)
        self.plan_for([(0, distributed.size())])
        self.flops_per_clip = training_flops(self.kind, params.model, settings.num_frames, settings.max_text_tokens)

    def plan_for(self, worlds: Sequence[tuple[int, int]]) -> int:
        """Plan the batches for the numbers of processes so far, (first micro-step, processes) each; how many micro-steps."""
        settings, (_, processes) = self.settings, worlds[0]
        self.plan = BatchPlan(
            {name: len(dataset) for name, dataset in self.datasets.items()},
            settings.batch_size,
            processes,
            epochs=settings.epochs,
            seed=self.params.seed,
            groups=_Groups(self.datasets),
            reshuffle=settings.reshuffle,
            distinct_videos=settings.distinct_videos,
            mix=settings.mix if isinstance(settings, CorpusTraining) else "equal",
        )
        for micro_step, processes in worlds[1:]:
            if micro_step < self.plan.total_steps:
                self.plan = self.plan.resized(micro_step, processes)
        return self.plan.total_steps

    def epoch_of(self, micro_step: int) -> int:
        """The epoch, from 0, that a micro-step belongs to."""
        return self.plan.epoch_of(micro_step)

    def loader(self, start: int, stop: int) -> TrainLoader:
        """This rank's batches of some micro-steps."""
        options = self.params.loader
        return TrainLoader(
            self.datasets,
            self.plan,
            self.collator,
            rank=distributed.rank(),
            start_step=start,
            stop_step=stop,
            workers=options.workers,
            prefetch=options.prefetch,
            max_unreadable=options.max_unreadable,
        )

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Metrics of the validation split, the same on every rank."""

    def extras(self) -> dict[str, Path]:
        """Files that a checkpoint takes along, by their names in it."""
        folder = Path(self.params.text.tokenizer)
        return {f"tokenizer/{name}": folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}


class _Groups(dict[str, np.ndarray]):
    """The videos of each corpus's samples, looked up when the plan asks for them: that takes a while on millions."""

    def __init__(self, datasets: Mapping[str, ClipDataset]) -> None:
        super().__init__()
        self.datasets = datasets

    def get(self, name: str, default: Any = None) -> Any:
        return self.datasets[name].groups


def _tokenizer(params: Params) -> Any:
    return load_tokenizer(params.text.tokenizer, vocab_size=params.model.vocab_size)


def _start(model: Alpro, init: str, params: Params, say: Callable[[str], None]) -> None:
    """Give a model, until now without memory, its first weights."""
    if next(model.parameters()).is_meta:
        model.to_empty(device="cpu")
    for report in start(model, init, params.seed, params.init.resize):
        say(str(report))
