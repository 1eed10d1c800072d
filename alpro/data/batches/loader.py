"""Data loading: prefetched batches of training, from any step, and of validation.

An unreadable sample is never replaced. Training leaves it out, counts it, and stops above a limit; validation raises
an error.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from alpro.data.batches.batch import Batch
from alpro.data.batches.datasets import ClipDataset, Collated, Collator, Unreadable, VideoTextSample
from alpro.data.batches.ordered_clips import unreadable_message
from alpro.data.batches.sampler import BatchPlan
from alpro.data.batches.shared_memory import REMEDY, FailurePipe, check_room
from alpro.errors import DataError, TrainingError
from alpro.system.parent import die_with_parent
from alpro.terminal import logs

log = logs.get(__name__)
_LISTED = 20  # unreadable files named in one message
_MIN_COUNTED = 1000  # samples: of fewer, a single unreadable one would be a large share
_Key = tuple[str, int, int]  # (corpus, epoch, row)


class TrainLoader:
    """This process's batches of a plan: iterates over (micro-step, Batch) for `start_step` <= step < `stop_step`.

    Unreadable samples are left out of their batch, logged, and added to `skipped`; a clip with several texts counts as
    several. A TrainingError is raised if their share exceeds `max_unreadable` of the samples read by all processes, counted
    as at least 1,000. This process checks its own samples; `check_unreadable` checks the sum of all processes' `counts`. A
    TrainingError is also raised for a batch without readable samples and if a worker process dies. `workers` 0 reads in the
    calling process.
    """

    def __init__(
        self,
        datasets: Mapping[str, ClipDataset],
        plan: BatchPlan,
        collator: Collator,
        *,
        rank: int = 0,
        start_step: int = 0,
        stop_step: int | None = None,
        workers: int = 0,
        prefetch: int = 2,
        max_unreadable: float = 0.001,
    ) -> None:
        self.datasets, self.plan, self.collator, self.rank = dict(datasets), plan, collator, rank
        self.start_step, self.stop_step = start_step, plan.total_steps if stop_step is None else stop_step
        self.workers, self.prefetch, self.max_unreadable = workers, prefetch, max_unreadable
        self.read = 0  # samples requested so far
        self.skipped: list[str] = []  # ids of unreadable samples

    def __len__(self) -> int:
        return max(0, self.stop_step - self.start_step)

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        steps = range(self.start_step, self.stop_step)
        batches = _read_ahead(self.datasets, (self._keys(step) for step in steps), self.collator, self.workers, self.prefetch)
        try:
            for step in steps:
                try:
                    collated = next(batches)
                except _WorkerDied as error:
                    files = f"it was reading one of {self._paths(step)}, or a file of a later step"
                    raise TrainingError(f"step {step}: {error}; {files}") from None
                yield step, self._checked(step, collated)
        finally:
            batches.close()

    @property
    def counts(self) -> tuple[int, int]:
        """Return the numbers of unreadable and of requested samples of this process so far."""
        return len(self.skipped), self.read

    def check_unreadable(self, skipped: int, read: int) -> None:
        """Raise TrainingError if the share of unreadable samples over all processes exceeds `max_unreadable`."""
        if skipped > self.max_unreadable * max(read, _MIN_COUNTED):
            examples = f"; of this process: {_listed(sorted(set(self.skipped)))}" if self.skipped else ""
            raise TrainingError(
                f"{skipped} of {read} samples could not be read, more than loader.max_unreadable {self.max_unreadable:g} "
                f"allows{examples}; see the log of each process for its unreadable samples and the reasons"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts that a resumed training needs in addition to its step."""
        return {"read": self.read, "skipped": list(self.skipped)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Add saved counts to those of this loader. Call it once per state to add up several processes."""
        self.read += int(state["read"])
        self.skipped += state["skipped"]

    def _keys(self, step: int) -> list[_Key]:
        draw = self.plan.local(step, self.rank)
        return [(draw.corpus, draw.epoch, int(row)) for row in draw.indices]

    def _paths(self, step: int) -> str:
        return _listed([str(self.datasets[corpus].path(row)) for corpus, _, row in self._keys(step)])

    def _checked(self, step: int, collated: Collated) -> Batch:
        """Count and log the unreadable samples of a step; return its batch or raise TrainingError."""
        left_out = [name for item in collated.unreadable for name in item.ids]
        self.read += len(left_out) + (len(collated.batch) if collated.batch else 0)
        for item in collated.unreadable:
            log.warning("step %d: left out %s: %s", step, _listed(item.ids), item.reason)
        self.skipped += left_out
        if len(self.skipped) > self.max_unreadable * max(self.read * self.plan.world_size, _MIN_COUNTED):
            raise TrainingError(
                f"step {step}: {len(self.skipped)} of {self.read} samples could not be read, more than loader.max_unreadable "
                f"{self.max_unreadable:g} allows: {_listed(sorted(set(self.skipped)))}; last reason: "
                f"{collated.unreadable[-1].reason if collated.unreadable else 'see the log'}"
            )
        if collated.batch is None:
            reasons = _listed([item.reason for item in collated.unreadable])
            raise TrainingError(f"step {step}: no sample of the batch could be read: {reasons}")
        return collated.batch


def validation_batches(
    dataset: ClipDataset,
    collator: Collator,
    batch_size: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    prefetch: int = 2,
    samples: int | None = None,
) -> Iterator[Batch]:
    """Yield each sample once, in order, in batches of about `batch_size`.

    Every process gets the same number of batches, and none is empty. `samples` limits their number; they are evenly
    spread over the dataset. Random draws are those of epoch 0, so every validation sees the same data. Raises DataError
    at the first batch with an unreadable sample, and if there are fewer samples than processes.
    """
    total = len(dataset)
    rows = np.arange(total) if samples is None or samples >= total else np.arange(samples) * total // samples
    if len(rows) < world_size:
        raise DataError(f"{dataset.name}: {len(rows)} validation samples for {world_size} processes; use fewer processes")
    steps = min(-(-len(rows) // (world_size * batch_size)), len(rows) // world_size)
    keys = (
        [(dataset.name, 0, int(row)) for row in np.array_split(part, world_size)[rank]] for part in np.array_split(rows, steps)
    )
    batches = _read_ahead({dataset.name: dataset}, keys, collator, workers, prefetch)
    try:
        for collated in batches:
            if collated.unreadable or collated.batch is None:
                raise DataError(unreadable_message([item.reason for item in collated.unreadable]))
            yield collated.batch
    except _WorkerDied as error:
        raise DataError(f"{dataset.name}: {error}") from None
    finally:
        batches.close()


class _WorkerDied(Exception):
    pass


class _CombinedDataset(torch.utils.data.Dataset[Any]):
    """Several datasets that share one pool of workers."""

    def __init__(self, datasets: Mapping[str, ClipDataset]) -> None:
        self.datasets = dict(datasets)

    def __getitem__(self, key: _Key) -> VideoTextSample | Unreadable:
        corpus, epoch, row = key
        return self.datasets[corpus][epoch, row]


def _read_ahead(
    datasets: Mapping[str, ClipDataset], keys: Iterator[list[_Key]], collator: Collator, workers: int, prefetch: int
) -> Any:
    """Yield a Collated for each list of keys, in order. Raises TrainingError if /dev/shm is too small for the workers."""
    failures = FailurePipe() if workers else None
    if workers:
        first = next(keys, [])
        keys = itertools.chain([first] if first else [], keys)
        check_room(sum(datasets[corpus].view.clip_bytes for corpus, _, _ in first), workers, prefetch)
        # a tokenizer that has used threads warns at every fork
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    in_main_thread = threading.current_thread() is threading.main_thread()
    loader = torch.utils.data.DataLoader(
        _CombinedDataset(datasets),
        batch_sampler=keys,
        collate_fn=collator,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=partial(_prepare_worker, failures, in_main_thread) if failures is not None else None,
        generator=torch.Generator(),  # not the global one: its state is the model's and must be the same after a resume
        multiprocessing_context="fork" if workers else None,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        text = str(error).splitlines()[0].split(" exited")[0]
        if reason := failures.reason() if failures else "":
            remedy = REMEDY if "No space left" in reason or "shm" in reason else "try fewer loader.workers, or 0"
            raise _WorkerDied(f"a worker process could not hand over a batch ({reason}): {remedy}") from error
        cause = f"the decoder crashed or memory ran out; if /dev/shm is full, {REMEDY}; else try fewer loader.workers, or 0"
        raise _WorkerDied(f"a worker process died ({text}): {cause}") from error
    finally:
        if failures is not None:
            failures.close()


def _prepare_worker(failures: FailurePipe, in_main_thread: bool, worker: int) -> None:
    """End a worker at once when it fails, or when the training is killed, for which PyTorch's own check would take seconds."""
    failures.end_worker_on_failure()
    if in_main_thread:
        die_with_parent()


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
