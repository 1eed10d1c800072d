"""Base class of the four tasks: clips with text, in planned batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alpro import distributed
from alpro.checkpoints.initial_weights import load_start
from alpro.checkpoints.load import Resize
from alpro.config import CorpusTraining, Finetuning, Model, Params, Training
from alpro.data.batches.datasets import ClipDataset, Collator
from alpro.data.batches.loader import TrainLoader
from alpro.data.batches.sampler import BatchPlan
from alpro.data.text.tokenizer import TOKENIZER_FILES
from alpro.models import Alpro
from alpro.training.flops import training_flops


class ClipTask(ABC):
    """A training on clips with text. Subclasses provide the model, the losses and the validation."""

    kind: str  # name of the model for `build_model`
    model: Alpro
    losses: Sequence[str]
    metrics: Sequence[str]

    def __init__(self, params: Params, settings: Training, datasets: Mapping[str, ClipDataset], collator: Collator) -> None:
        self.params, self.settings, self.collator, self.datasets = params, settings, collator, dict(datasets)
        self.plan_for([(0, distributed.size())])
        shared = sum(dataset.texts for dataset in datasets.values()) / sum(map(len, datasets.values()))  # texts of a clip
        self.flops_per_clip = training_flops(self.kind, params.model, settings.num_frames, settings.max_text_tokens, shared)

    def plan_for(self, worlds: Sequence[tuple[int, int]]) -> int:
        """Plan the batches and return the number of micro-steps; `worlds`: (first micro-step, processes) of each world size."""
        settings, (_, processes) = self.settings, worlds[0]
        self.plan = BatchPlan(
            {name: len(dataset) for name, dataset in self.datasets.items()},
            settings.batch_size,
            processes,
            epochs=settings.epochs,
            seed=self.params.seed,
            groups=_VideoGroups(self.datasets),
            reshuffle=settings.reshuffle,
            distinct_videos=settings.distinct_videos,
            mix=settings.mix if isinstance(settings, CorpusTraining) else "equal",
            texts_per_clip=settings.texts_per_clip if isinstance(settings, Finetuning) else 1,
        )
        for micro_step, processes in worlds[1:]:
            if micro_step < self.plan.total_steps:
                self.plan = self.plan.resized(micro_step, processes)
        return self.plan.total_steps

    def epoch_of(self, micro_step: int) -> int:
        """Return the epoch of a micro-step, counted from 0."""
        return self.plan.epoch_of(micro_step)

    def loader(self, start: int, stop: int) -> TrainLoader:
        """Return this rank's batches of micro-steps `start` to `stop - 1`."""
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
        """Return metrics of the validation split, the same on every rank."""

    def extras(self) -> dict[str, Path]:
        """Return files to copy into the checkpoint, by their names there."""
        folder = Path(self.params.text.tokenizer)
        return {f"tokenizer/{name}": folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}


class _VideoGroups(dict[str, np.ndarray]):
    """Video of each sample, by corpus. Looked up only when the plan needs it, because that is slow for millions of samples."""

    def __init__(self, datasets: Mapping[str, ClipDataset]) -> None:
        super().__init__()
        self.datasets = datasets

    def get(self, name: str, default: Any = None) -> Any:
        return self.datasets[name].groups


def padding(model: Model) -> int:
    """Return the number of which text lengths are multiples: 8 on a GPU, whose matrix units need it to be fast, else 1."""
    return 8 if distributed.device().type == "cuda" and model.max_positions % 8 == 0 else 1


def load_initial_weights(model: Alpro, init: str, seed: int, resize: Resize, say: Callable[[str], None]) -> None:
    """Load the weights that training starts from into a model, which may still be on the meta device."""
    if next(model.parameters()).is_meta:
        model.to_empty(device="cpu")
    for report in load_start(model, init, seed, resize):
        say(str(report))
