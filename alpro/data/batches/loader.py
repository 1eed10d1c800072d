"""Batches, read ahead: for training from any step on, for evaluation clip by clip in order.

A sample that can't be read is never replaced: training leaves it out, counts it and stops above a bound; evaluation
lists all such videos (before it starts: see unreadable.py).
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alpro.data.annotations.records import Record
from alpro.data.batches.batch import Batch
from alpro.data.batches.datasets import (
    ClipDataset,
    Collated,
    Collator,
    PackedRecords,
    Sample,
    Unreadable,
    View,
    look_at_image,
    look_at_video,
)
from alpro.data.batches.sampler import BatchPlan
from alpro.data.batches.seeds import python_rng
from alpro.data.media.frames import Strategy
from alpro.errors import DataError, TrainingError

log = logging.getLogger(__name__)
_LISTED = 20  # unreadable files named in one message
_JUDGED_FROM = 1000  # samples: below, a single unreadable one would be a large share
_Key = tuple[str, int, int]  # (corpus, epoch, row)


# --- training ---------------------------------------------------------------------------------------------


class TrainLoader:
    """This process's batches of a plan: iterates (micro-step, Batch) from `start_step` up to, without, `stop_step`.

    A batch is smaller by the samples that could not be read; they are logged, counted in `skipped` and, once they are
    more than `max_unreadable` of those that all processes read (of 1,000 at the least), end the training with a
    TrainingError: here once this process's own are that many, and in `judge` where the processes tell each other their
    `counts`. So does a batch of which nothing is left, and a reading process that dies. `workers` 0 reads in the calling
    process.
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
        self.read = 0  # samples asked for so far
        self.skipped: list[str] = []  # ids of those that could not be read

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
                    where = f"while reading one of {self._names(step)}, or of a later step"
                    raise TrainingError(f"step {step}: {error}; {where}") from None
                yield step, self._judge(step, collated)
        finally:
            batches.close()

    @property
    def counts(self) -> tuple[int, int]:
        """How many samples of this process could not be read so far, and how many it asked for."""
        return len(self.skipped), self.read

    def judge(self, left_out: int, read: int) -> None:
        """Raise TrainingError where so many of the samples that all processes asked for are too many."""
        if left_out > self.max_unreadable * max(read, _JUDGED_FROM):
            own = f"; of this process: {_listed(sorted(set(self.skipped)))}" if self.skipped else ""
            raise TrainingError(
                f"{left_out} of {read} samples could not be read, more than loader.max_unreadable {self.max_unreadable:g} "
                f"allows{own}; the log of each process names its own with the reason"
            )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must know besides its step."""
        return {"read": self.read, "skipped": list(self.skipped)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there; the states of several processes add up."""
        self.read += int(state["read"])
        self.skipped += state["skipped"]

    def _keys(self, step: int) -> list[_Key]:
        draw = self.plan.local(step, self.rank)
        return [(draw.corpus, draw.epoch, int(row)) for row in draw.indices]

    def _names(self, step: int) -> str:
        return _listed([str(self.datasets[corpus].path(row)) for corpus, _, row in self._keys(step)])

    def _judge(self, step: int, collated: Collated) -> Batch:
        self.read += len(collated.unreadable) + (len(collated.batch) if collated.batch else 0)
        for item in collated.unreadable:
            log.warning("step %d: left out %s: %s", step, item.id, item.reason)
            self.skipped.append(item.id)
        if len(self.skipped) > self.max_unreadable * max(self.read * self.plan.world_size, _JUDGED_FROM):
            raise TrainingError(
                f"step {step}: {len(self.skipped)} of {self.read} samples could not be read, more than loader.max_unreadable "
                f"{self.max_unreadable:g} allows: {_listed(sorted(set(self.skipped)))}; the last: "
                f"{collated.unreadable[-1].reason if collated.unreadable else 'read before'}"
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
    """Each sample once, in order, in batches of about `batch_size`, the same number of them on every process, none empty.

    `samples` takes only so many, evenly spread. Epoch 0's draws, so every validation sees the same.
    Raises DataError at the first unreadable sample, and when there are fewer samples than processes.
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
                raise DataError(refusal([item.reason for item in collated.unreadable]))
            yield collated.batch
    except _WorkerDied as error:
        raise DataError(f"{dataset.name}: {error}") from None
    finally:
        batches.close()


class _WorkerDied(Exception):
    pass


class _Mixed(torch.utils.data.Dataset[Any]):
    """Several datasets behind one pool of workers."""

    def __init__(self, datasets: Mapping[str, ClipDataset]) -> None:
        self.datasets = dict(datasets)

    def __getitem__(self, key: _Key) -> Sample | Unreadable:
        corpus, epoch, row = key
        return self.datasets[corpus][epoch, row]


def _read_ahead(
    datasets: Mapping[str, ClipDataset], keys: Iterator[list[_Key]], collator: Collator, workers: int, prefetch: int
) -> Any:
    """A generator of Collated, one for each list of keys, in order."""
    if workers:
        # a tokenizer that has used its threads warns at every fork
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    loader = torch.utils.data.DataLoader(
        _Mixed(datasets),
        batch_sampler=keys,
        collate_fn=collator,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_die_with_parent if threading.current_thread() is threading.main_thread() else None,
        generator=torch.Generator(),  # its own: the global one belongs to the model, and to the bits of a resumed run
        multiprocessing_context="fork" if workers else None,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        text = str(error).splitlines()[0].split(" exited")[0]
        cause = "a crash in the decoder, or too little memory (also in /dev/shm): try fewer loader.workers, or 0"
        raise _WorkerDied(f"a reading process died ({text}): {cause}") from error


def _die_with_parent(worker: int) -> None:
    """A reading process ends when the training is killed, instead of waiting for work that nobody hands out."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, on Linux
    except (OSError, AttributeError):
        log.debug("no prctl here: worker %d notices its parent's death by itself, within seconds", worker)


# --- evaluation -------------------------------------------------------------------------------------------


def iter_clips(
    records: Sequence[Record],
    num_frames: int,
    strategy: Strategy,
    size: int,
    workers: int = 0,
    *,
    seed: int = 0,
    decode_size: int | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Each record's clip once, in order: (position in `records`, frames (T, 3, size, size) uint8).

    `workers` threads read ahead (decord works outside Python's lock). Each file is read once. After the first that can't be
    read the rest is only tried, and a DataError lists *all* such files.
    """
    faults = []
    for position, found in try_clips(records, num_frames, strategy, size, workers, seed=seed, decode_size=decode_size):
        if isinstance(found, DataError):
            faults.append(str(found))
        elif not faults:
            yield position, found
    if faults:
        raise DataError(refusal(faults))


def try_clips(
    records: Sequence[Record],
    num_frames: int,
    strategy: Strategy,
    size: int,
    workers: int = 0,
    *,
    seed: int = 0,
    decode_size: int | None = None,
) -> Iterator[tuple[int, Tensor | DataError]]:
    """As `iter_clips`, with the fault in the clip's place where a file can't be read."""
    view = View(num_frames, size, strategy, decode_size, train=False)
    packed = PackedRecords(records)

    def read(position: int) -> Tensor | DataError:
        record = packed[position]
        try:
            if record.media == "image":
                return look_at_image(record, view, None).expand(num_frames, -1, -1, -1)
            return look_at_video(record, view, python_rng(seed, 0, record.id, "frames"), None)
        except DataError as error:
            return error

    return _threaded(read, range(len(packed)), workers)


def _threaded(read: Any, positions: Sequence[int], workers: int) -> Iterator[tuple[int, Any]]:
    """(position, what was read) in order, a few ahead of the one handed out."""
    if workers < 1:
        yield from ((position, read(position)) for position in positions)
        return
    waiting = iter(positions)
    with ThreadPoolExecutor(workers, thread_name_prefix="clips") as pool:
        ahead: deque[tuple[int, Future[Any]]] = deque((p, pool.submit(read, p)) for p in islice(waiting, 2 * workers))
        try:
            while ahead:
                position, future = ahead.popleft()
                found = future.result()
                ahead.extend((p, pool.submit(read, p)) for p in islice(waiting, 1))
                yield position, found
        finally:
            for _, future in ahead:
                future.cancel()


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def refusal(faults: Sequence[str]) -> str:
    """All of them: who mends a data set wants the whole list."""
    many = f"{len(faults)} videos" if len(faults) > 1 else "1 video"
    return "\n  ".join([f"{many} can't be read; fetch again, or take out of the split:", *faults])
