"""The plan of batches: which samples form which batch, as a pure function of (seed, micro-step).

N processes with B samples each see, together, the same batches as one process with N x B. A training resumes in the
middle of an epoch from its step number alone.

Two invariants hold, also after a change of the number of processes:

- No sample occurs twice in an epoch of its corpus.
- With `distinct_videos`, no video occurs twice in a batch of all processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from alpro.data.batches.seeds import numpy_rng
from alpro.errors import ConfigError

_CACHED_ORDERS = 2  # epochs of a corpus in memory: prefetching reads beyond the end of an epoch
_TRIES = 100  # random positions tried for a swap before all are searched


@dataclass(frozen=True, slots=True)
class Draw:
    """The samples of one micro-step."""

    corpus: str
    epoch: int  # number of earlier passes over the corpus
    indices: np.ndarray  # rows of the corpus: of all processes, or of one


class _Remainder(NamedTuple):
    """Rows of a corpus that are not yet used in its epoch."""

    epoch: int
    rows: np.ndarray


class BatchPlan:
    """The batches of a training, by micro-step.

    An epoch has sum(floor(samples / (world_size * batch_size))) steps over the corpora; the rows of a shuffled corpus
    that fill no batch are left out of that epoch.

    - `mix` "equal" draws the corpus of a step with equal odds, so small corpora repeat more often (released code). "size"
      draws it in proportion to size, so an epoch sees every corpus once.
    - `reshuffle` False keeps one order for all epochs (released code).
    - `groups[corpus]` has one number per sample, equal for samples of the same video; used by `distinct_videos`.
    - `texts_per_clip` over 1: a sample is a clip with up to that many texts, and `batch_size` counts texts, so a batch has
      batch_size / texts_per_clip samples (and fewer texts than `batch_size`, if a sample has fewer).

    Raises ConfigError if a corpus cannot fill a batch under these conditions.
    """

    def __init__(
        self,
        lengths: Mapping[str, int],
        batch_size: int,
        world_size: int = 1,
        *,
        epochs: int,
        seed: int,
        groups: Mapping[str, np.ndarray] | None = None,
        reshuffle: bool = True,
        distinct_videos: bool = False,
        mix: Literal["equal", "size"] = "equal",
        texts_per_clip: int = 1,
    ) -> None:
        self.corpora = list(lengths)
        self.lengths = dict(lengths)
        self.batch_size, self.world_size, self.seed = batch_size // texts_per_clip, world_size, seed
        self.reshuffle, self.mix, self.texts_per_clip = reshuffle, mix, texts_per_clip
        self.global_batch = self.batch_size * world_size
        self.batches = {name: length // self.global_batch for name, length in lengths.items()}
        self.steps_per_epoch = sum(self.batches.values())
        self.epochs, self.total_steps = epochs, epochs * self.steps_per_epoch
        # A plan made by `resized` begins at `_first_step` with `_carried_steps` steps of the unfinished epoch, taken from
        # `_carried`; whole epochs follow from `_next_epoch` on.
        self._first_step, self._carried_steps, self._next_epoch = 0, 0, 0
        self._carried = {name: _Remainder(-1, np.arange(0)) for name in lengths}
        self._groups = {name: g for name in lengths if distinct_videos and (g := (groups or {}).get(name)) is not None}
        self._orders: dict[tuple[str, int], np.ndarray] = {}
        self._cached_mix: tuple[int, np.ndarray] | None = None  # (epoch, corpus of each step)
        self._turns = [np.zeros(len(self.corpora), dtype=np.int64)]  # per epoch: steps of each corpus before it
        for name in self.corpora:
            self._check_fillable(name)

    def at(self, step: int) -> Draw:
        """Return the global batch of a micro-step, from 0. Raises IndexError outside the training."""
        if not self._first_step <= step < self.total_steps:
            raise IndexError(f"step {step} of a training of {self.total_steps}")
        epoch, position = self._locate(step)
        corpora = self._corpus_of_steps(epoch)
        number = int(corpora[position])
        name = self.corpora[number]
        turn = int(self._turns_before(epoch)[number] + np.count_nonzero(corpora[:position] == number))
        corpus_epoch, rows = self._carried[name]
        batch, batches = turn, len(rows) // self.global_batch
        if turn >= batches:
            later, batch = divmod(turn - batches, self.batches[name])
            corpus_epoch += 1 + later
            rows = self._order(name, corpus_epoch)
        return Draw(name, corpus_epoch, rows[batch * self.global_batch : (batch + 1) * self.global_batch])

    def local(self, step: int, rank: int) -> Draw:
        """Return one process's part of the global batch: contiguous, in the order of ranks."""
        draw = self.at(step)
        return Draw(draw.corpus, draw.epoch, draw.indices[rank * self.batch_size : (rank + 1) * self.batch_size])

    def epoch_of(self, step: int) -> int:
        """Return the epoch of the training, from 0, that a step belongs to."""
        if step < self._first_step:
            return self._next_epoch - 1
        return self._locate(step)[0]

    def resized(self, step: int, world_size: int) -> BatchPlan:
        """Return the plan that continues from `step` with another number of processes, in the same epoch.

        The epoch continues with its unused samples. Up to one batch more of each corpus is left out. Raises ConfigError
        like the constructor.
        """
        plan = BatchPlan(
            self.lengths, self.batch_size * self.texts_per_clip, world_size, epochs=self.epochs, seed=self.seed,
            groups=self._groups, reshuffle=self.reshuffle, distinct_videos=True, mix=self.mix,
            texts_per_clip=self.texts_per_clip,
        )  # fmt: skip
        epoch, position = self._locate(step)
        inside = position > 0 or epoch < self._next_epoch  # the epoch has begun
        turns = np.bincount(self._corpus_of_steps(epoch)[:position], minlength=len(self.corpora))  # (corpora,) this epoch
        before = self._turns_before(epoch)
        for number, name in enumerate(self.corpora):
            if self._one_pass_per_epoch:
                rows = self._carried[name].rows if epoch < self._next_epoch else self._order(name, epoch)
                unused = rows[turns[number] * self.global_batch :]
                remainder = _Remainder(epoch, unused) if inside else _Remainder(epoch - 1, rows[:0])
            else:
                remainder = self._remainder(name, int(before[number] + turns[number]))
            plan._carried[name] = _Remainder(remainder.epoch, plan._remaining_batches(name, remainder.rows, step))
        batches = [len(remainder.rows) // plan.global_batch for remainder in plan._carried.values()]
        plan._first_step, plan._next_epoch = step, epoch + inside
        if inside:
            samples = (len(self._corpus_of_steps(epoch)) - position) * self.global_batch
            plan._carried_steps = sum(batches) if self._one_pass_per_epoch else samples // plan.global_batch
        plan.total_steps = step + plan._carried_steps + (self.epochs - plan._next_epoch) * plan.steps_per_epoch
        return plan

    @property
    def _one_pass_per_epoch(self) -> bool:
        """True if an epoch of the training is one epoch of every corpus."""
        return self.mix == "size" or len(self.corpora) == 1

    def _remainder(self, name: str, turns: int) -> _Remainder:
        """Return the unused rows of a corpus after its first `turns` steps in this plan."""
        epoch, rows = self._carried[name]
        batches = len(rows) // self.global_batch
        if turns > batches:
            later, last = divmod(turns - batches - 1, self.batches[name])
            epoch += 1 + later
            turns, rows = last + 1, self._order(name, epoch)
        return _Remainder(epoch, rows[turns * self.global_batch :])

    def _remaining_batches(self, name: str, rows: np.ndarray, step: int) -> np.ndarray:
        """Reorder unused rows so that every batch of this plan has distinct videos; drop those that fit in no batch."""
        batches = len(rows) // self.global_batch
        if name not in self._groups:
            return rows
        groups, rng = self._groups[name], numpy_rng(self.seed, "rest", name, step)
        counts = np.unique(groups[rows], return_counts=True)[1]
        possible = next((b for b in range(batches, 0, -1) if np.minimum(counts, b).sum() >= b * self.global_batch), 0)
        if possible and possible == batches:
            return _separate_videos(rows, groups, self.global_batch, rng)
        if not possible:
            return rows[:0]
        return _deal_by_video(rows, groups, self.global_batch, rng, possible)[: possible * self.global_batch]

    def _locate(self, step: int) -> tuple[int, int]:
        """Return the epoch of a step, and the step's position among those of that epoch in this plan."""
        if step - self._first_step < self._carried_steps:
            return self._next_epoch - 1, step - self._first_step
        epochs, position = divmod(step - self._first_step - self._carried_steps, self.steps_per_epoch)
        return self._next_epoch + epochs, position

    def _corpus_of_steps(self, epoch: int) -> np.ndarray:
        """(steps,) number of the corpus of each step of an epoch in this plan."""
        if self._cached_mix is None or self._cached_mix[0] != epoch:
            if epoch < self._next_epoch:
                rng, steps = numpy_rng(self.seed, "mix", epoch, self._first_step), self._carried_steps
                batches = [len(remainder.rows) // self.global_batch for remainder in self._carried.values()]
            else:
                rng, steps = numpy_rng(self.seed, "mix", epoch), self.steps_per_epoch
                batches = list(self.batches.values())
            numbers = np.arange(len(self.corpora), dtype=np.int8)
            if len(numbers) == 1:
                drawn = np.zeros(steps, dtype=np.int8)
            elif self.mix == "equal":
                drawn = rng.randint(0, len(numbers), steps).astype(np.int8)
            else:
                drawn = rng.permutation(np.repeat(numbers, batches))[:steps]
            self._cached_mix = epoch, drawn
        return self._cached_mix[1]

    def _turns_before(self, epoch: int) -> np.ndarray:
        """(corpora,) number of steps of each corpus before an epoch of this plan."""
        first = self._next_epoch - 1  # the carried epoch, which may be empty
        while len(self._turns) <= epoch - first:
            counts = np.bincount(self._corpus_of_steps(first + len(self._turns) - 1), minlength=len(self.corpora))
            self._turns.append(self._turns[-1] + counts)
        return self._turns[epoch - first]

    def _order(self, name: str, epoch: int) -> np.ndarray:
        """Return the shuffled rows of a corpus for one epoch; rows that fill no batch come last."""
        epoch = epoch if self.reshuffle else 0
        if (name, epoch) not in self._orders:
            cached = sorted(key for key in self._orders if key[0] == name)
            for key in cached[: len(cached) - _CACHED_ORDERS + 1]:
                del self._orders[key]
            order = numpy_rng(self.seed, "order", name, epoch).permutation(self.lengths[name])
            if name in self._groups:
                rng = numpy_rng(self.seed, "distinct", name, epoch)
                order = _separate_videos(order, self._groups[name], self.global_batch, rng)
            self._orders[name, epoch] = order
        return self._orders[name, epoch]

    def _check_fillable(self, name: str) -> None:
        """Raise ConfigError if a corpus cannot fill its batches; drop its groups if every video has one sample."""
        batch, batches = self.global_batch, self.batches[name]
        shared, unit = self.texts_per_clip, "samples"
        size = f"{self.world_size} processes x batch_size {self.batch_size * shared}"
        if shared > 1:
            size, unit = f"{size} ({self.batch_size} clips with {shared} texts each)", "clips with texts"
        if not batches:
            raise ConfigError(f"{name}: {self.lengths[name]} {unit} do not fill one batch of {size}; lower batch_size")
        if name in self._groups:
            counts = np.bincount(np.unique(self._groups[name], return_inverse=True)[1])
            if counts.max() == 1:
                del self._groups[name]  # no video has two samples
            elif np.minimum(counts, batches).sum() < batches * batch:
                raise ConfigError(
                    f"{name}: {len(counts)} videos can't fill {batches} batches of {size} with no video twice in one; "
                    "lower batch_size, or set distinct_videos: false"
                )


def _separate_videos(order: np.ndarray, groups: np.ndarray, batch: int, rng: np.random.RandomState) -> np.ndarray:
    """Swap as few samples as needed so that no batch has two samples of the same video."""
    order = order.copy()
    used = len(order) // batch * batch
    videos = groups[order[:used]].reshape(-1, batch)  # (batches, batch), kept up to date
    ordered = np.sort(videos, axis=1)
    for number in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)):
        _, first = np.unique(videos[number], return_index=True)
        for column in np.setdiff1d(np.arange(batch), first):
            if np.count_nonzero(videos[number] == videos[number, column]) < 2:
                continue
            position = number * batch + column
            other = _find_swap(position, order, groups, videos, rng)
            if other is None:
                return _deal_by_video(order, groups, batch, rng)
            order[position], order[other] = order[other], order[position]
            videos[number, column] = groups[order[position]]
            if other < used:
                videos[other // batch, other % batch] = groups[order[other]]
    return order


def _find_swap(
    position: int, order: np.ndarray, groups: np.ndarray, videos: np.ndarray, rng: np.random.RandomState
) -> int | None:
    """Return a position to swap with that leaves no video twice in either batch: drawn, or else searched; None if none."""
    batches, batch = videos.shape
    video = groups[order[position]]

    def fits(other: int) -> bool:
        number = other // batch
        if number == position // batch or (videos[position // batch] == groups[order[other]]).any():
            return False
        return number >= batches or not (videos[number] == video).any()

    for other in rng.randint(0, len(order), _TRIES):
        if fits(int(other)):
            return int(other)
    return next((other for other in range(len(order)) if fits(other)), None)


def _deal_by_video(
    order: np.ndarray, groups: np.ndarray, batch: int, rng: np.random.RandomState, batches: int | None = None
) -> np.ndarray:
    """Sort samples by video and deal them to the batches in turn, so that each gets at most one of a video if possible."""
    batches = batches or len(order) // batch
    ranks = rng.permutation(groups.max() + 1)[groups[order]]
    by_video = order[np.argsort(ranks, kind="stable")]
    keys = np.sort(ranks, kind="stable")
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    number_in_video = np.arange(len(keys)) - np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
    usable = np.flatnonzero(number_in_video < batches)
    left_out = np.setdiff1d(np.arange(len(keys)), usable[: batches * batch])
    dealt = by_video[usable[: batches * batch]].reshape(batch, batches).T  # neighbors go to different batches
    dealt = np.stack([rng.permutation(rows) for rows in dealt[rng.permutation(batches)]])
    return np.r_[dealt.ravel(), by_video[left_out]]
