"""Which samples make which batch: a pure function of (seed, micro-step), the same on every process.

N processes with B samples each see, together, the batches of one process with N x B; a training resumes in the middle
of an epoch from the number of its step alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from alpro.data.batches.seeds import numpy_rng
from alpro.errors import ConfigError

_KEPT_ORDERS = 2  # epochs of a corpus in memory: a prefetching reader looks over the edge of one
_TRIES = 100


@dataclass(frozen=True, slots=True)
class Draw:
    """The samples of one micro-step."""

    corpus: str
    epoch: int  # how often the corpus had been gone through before
    indices: np.ndarray  # rows of the corpus: of all processes, or of one


class BatchPlan:
    """The batches of a training, by micro-step.

    An epoch has sum(floor(samples / (world_size * batch_size))) steps over the corpora; the rest of a shuffled corpus is
    left out until the next time. `mix`: which corpus a step takes is drawn with equal odds, so a small corpus comes round
    more often (released code), or by size, so an epoch sees each corpus once. `reshuffle` False: one order for all epochs
    (released code). `groups[corpus]` holds a number per sample, equal for one video: with `distinct_videos` none occurs
    twice in a batch of all processes. Raises ConfigError when a corpus can't fill a batch that way.
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
    ) -> None:
        self.corpora = list(lengths)
        self.lengths = dict(lengths)
        self.batch_size, self.world_size, self.seed = batch_size, world_size, seed
        self.reshuffle, self.mix = reshuffle, mix
        self.global_batch = batch_size * world_size
        self.batches = {name: length // self.global_batch for name, length in lengths.items()}
        self.steps_per_epoch = sum(self.batches.values())
        self.epochs, self.total_steps = epochs, epochs * self.steps_per_epoch
        # A plan may begin in the middle (`changed`): with some steps of an epoch, with what is left of each corpus.
        self.first_step, self.left, self.next_epoch = 0, 0, 0
        self._rests = {name: (-1, np.arange(0)) for name in lengths}  # the corpus's epoch, and the samples left of it
        self._groups = {name: g for name in lengths if distinct_videos and (g := (groups or {}).get(name)) is not None}
        self._orders: dict[tuple[str, int], np.ndarray] = {}
        self._mixed: tuple[int, np.ndarray] | None = None
        self._before = [np.zeros(len(self.corpora), dtype=np.int64)]  # steps of each corpus before an epoch
        for name in self.corpora:
            self._check(name)

    def at(self, step: int) -> Draw:
        """The global batch of a micro-step, from 0. Raises IndexError outside the training."""
        if not self.first_step <= step < self.total_steps:
            raise IndexError(f"step {step} of a training of {self.total_steps}")
        epoch, within = self._place(step)
        corpora = self._mix(epoch)
        number = int(corpora[within])
        name = self.corpora[number]
        turn = int(self._steps_before(epoch)[number] + np.count_nonzero(corpora[:within] == number))
        corpus_epoch, rest = self._rests[name]
        batch, batches = turn, len(rest) // self.global_batch
        if turn >= batches:
            later, batch = divmod(turn - batches, self.batches[name])
            corpus_epoch += 1 + later
            rest = self._order(name, corpus_epoch)
        return Draw(name, corpus_epoch, rest[batch * self.global_batch : (batch + 1) * self.global_batch])

    def local(self, step: int, rank: int) -> Draw:
        """What one process takes of it: a contiguous part, in the order of ranks."""
        draw = self.at(step)
        return Draw(draw.corpus, draw.epoch, draw.indices[rank * self.batch_size : (rank + 1) * self.batch_size])

    def epoch_of(self, step: int) -> int:
        """The training's epoch, from 0, that a step belongs to."""
        if step < self.first_step:
            return self.next_epoch - 1
        return self._place(step)[0]

    def changed(self, step: int, world_size: int) -> BatchPlan:
        """The plan that goes on from a step with another number of processes, inside of an epoch with what is left of it.

        Still no sample comes twice in an epoch; up to a batch more of each corpus is left out. Raises ConfigError as the
        constructor does.
        """
        plan = BatchPlan(
            self.lengths, self.batch_size, world_size, epochs=self.epochs, seed=self.seed, groups=self._groups,
            reshuffle=self.reshuffle, distinct_videos=True, mix=self.mix,
        )  # fmt: skip
        epoch, within = self._place(step)
        inside = within > 0 or epoch < self.next_epoch
        had = np.bincount(self._mix(epoch)[:within], minlength=len(self.corpora))  # (corpora,) turns in this epoch
        before = self._steps_before(epoch)
        for number, name in enumerate(self.corpora):
            if self._whole:
                rest = self._rests[name][1] if epoch < self.next_epoch else self._order(name, epoch)
                left = (epoch, rest[had[number] * self.global_batch :]) if inside else (epoch - 1, rest[:0])
            else:
                left = self._unread(name, int(before[number] + had[number]))
            plan._rests[name] = left[0], plan._cut(name, left[1], step)
        batches = [len(rest) // plan.global_batch for _, rest in plan._rests.values()]
        plan.first_step, plan.next_epoch = step, epoch + inside
        if inside:
            samples = (len(self._mix(epoch)) - within) * self.global_batch
            plan.left = sum(batches) if self._whole else samples // plan.global_batch
        plan.total_steps = step + plan.left + (self.epochs - plan.next_epoch) * plan.steps_per_epoch
        return plan

    @property
    def _whole(self) -> bool:
        """Whether an epoch of the training is one of every corpus."""
        return self.mix == "size" or len(self.corpora) == 1

    def _unread(self, name: str, turns: int) -> tuple[int, np.ndarray]:
        """The epoch of a corpus and what is left of it, after so many turns."""
        epoch, rest = self._rests[name]
        batches = len(rest) // self.global_batch
        if turns > batches:
            later, last = divmod(turns - batches - 1, self.batches[name])
            epoch += 1 + later
            turns, rest = last + 1, self._order(name, epoch)
        return epoch, rest[turns * self.global_batch :]

    def _cut(self, name: str, rest: np.ndarray, step: int) -> np.ndarray:
        """Samples in such an order that this plan's batches can be cut from them; what fits into none is left out."""
        batches = len(rest) // self.global_batch
        if name not in self._groups:
            return rest
        groups, rng = self._groups[name], numpy_rng(self.seed, "rest", name, step)
        counts = np.unique(groups[rest], return_counts=True)[1]
        fitting = next((b for b in range(batches, 0, -1) if np.minimum(counts, b).sum() >= b * self.global_batch), 0)
        if fitting and fitting == batches:
            return _distinct(rest, groups, self.global_batch, rng)
        return _dealt(rest, groups, self.global_batch, rng, fitting)[: fitting * self.global_batch] if fitting else rest[:0]

    def _place(self, step: int) -> tuple[int, int]:
        """The epoch of a step, and its number among the steps that this plan has of that epoch."""
        if step - self.first_step < self.left:
            return self.next_epoch - 1, step - self.first_step
        epochs, within = divmod(step - self.first_step - self.left, self.steps_per_epoch)
        return self.next_epoch + epochs, within

    def _mix(self, epoch: int) -> np.ndarray:
        """The corpus of each step that this plan has of an epoch, (steps_per_epoch,) or (left,)."""
        if self._mixed is None or self._mixed[0] != epoch:
            if epoch < self.next_epoch:
                rng, steps = numpy_rng(self.seed, "mix", epoch, self.first_step), self.left
                batches = [len(rest) // self.global_batch for _, rest in self._rests.values()]
            else:
                rng, steps = numpy_rng(self.seed, "mix", epoch), self.steps_per_epoch
                batches = list(self.batches.values())
            kinds = np.arange(len(self.corpora), dtype=np.int8)
            if len(kinds) == 1:
                drawn = np.zeros(steps, dtype=np.int8)
            elif self.mix == "equal":
                drawn = rng.randint(0, len(kinds), steps).astype(np.int8)
            else:
                drawn = rng.permutation(np.repeat(kinds, batches))[:steps]
            self._mixed = epoch, drawn
        return self._mixed[1]

    def _steps_before(self, epoch: int) -> np.ndarray:
        """(corpora,) how many steps of this plan each corpus had before an epoch."""
        first = self.next_epoch - 1  # that of which there is a part, or nothing
        while len(self._before) <= epoch - first:
            counts = np.bincount(self._mix(first + len(self._before) - 1), minlength=len(self.corpora))
            self._before.append(self._before[-1] + counts)
        return self._before[epoch - first]

    def _order(self, name: str, epoch: int) -> np.ndarray:
        """The samples of a corpus in the order of an epoch, those left out at the end."""
        epoch = epoch if self.reshuffle else 0
        if (name, epoch) not in self._orders:
            kept = sorted(key for key in self._orders if key[0] == name)
            for key in kept[: len(kept) - _KEPT_ORDERS + 1]:
                del self._orders[key]
            order = numpy_rng(self.seed, "order", name, epoch).permutation(self.lengths[name])
            if name in self._groups:
                rng = numpy_rng(self.seed, "distinct", name, epoch)
                order = _distinct(order, self._groups[name], self.global_batch, rng)
            self._orders[name, epoch] = order
        return self._orders[name, epoch]

    def _check(self, name: str) -> None:
        batch, batches = self.global_batch, self.batches[name]
        what = f"{self.world_size} processes x batch_size {self.batch_size}"
        if not batches:
            raise ConfigError(f"{name}: {self.lengths[name]} samples do not fill one batch of {what}; make batch_size smaller")
        if name in self._groups:
            counts = np.bincount(np.unique(self._groups[name], return_inverse=True)[1])
            if counts.max() == 1:
                del self._groups[name]  # nothing to keep apart
            elif np.minimum(counts, batches).sum() < batches * batch:
                raise ConfigError(
                    f"{name}: {len(counts)} videos can't fill {batches} batches of {what} with no video twice in one; "
                    "make batch_size smaller, or set distinct_videos: false"
                )


def _distinct(order: np.ndarray, groups: np.ndarray, batch: int, rng: np.random.RandomState) -> np.ndarray:
    """The order with as few exchanges as it takes for no batch to hold two samples of one group."""
    order = order.copy()
    used = len(order) // batch * batch
    rows = groups[order[:used]].reshape(-1, batch)  # (batches, batch), kept up to date
    ordered = np.sort(rows, axis=1)
    for number in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)):
        _, first = np.unique(rows[number], return_index=True)
        for place in np.setdiff1d(np.arange(batch), first):
            if np.count_nonzero(rows[number] == rows[number, place]) < 2:
                continue
            at = number * batch + place
            other = _partner(at, order, groups, rows, rng)
            if other is None:
                return _dealt(order, groups, batch, rng)
            order[at], order[other] = order[other], order[at]
            rows[number, place] = groups[order[at]]
            if other < used:
                rows[other // batch, other % batch] = groups[order[other]]
    return order


def _partner(at: int, order: np.ndarray, groups: np.ndarray, rows: np.ndarray, rng: np.random.RandomState) -> int | None:
    """A place to exchange with that leaves no doublet behind: drawn, else searched for."""
    batches, batch = rows.shape
    mine = groups[order[at]]

    def fits(other: int) -> bool:
        there = other // batch
        if there == at // batch or (rows[at // batch] == groups[order[other]]).any():
            return False
        return there >= batches or not (rows[there] == mine).any()

    for other in rng.randint(0, len(order), _TRIES):
        if fits(int(other)):
            return int(other)
    return next((other for other in range(len(order)) if fits(other)), None)


def _dealt(
    order: np.ndarray, groups: np.ndarray, batch: int, rng: np.random.RandomState, batches: int | None = None
) -> np.ndarray:
    """Samples sorted by group and dealt like cards: each batch gets at most one of a group, whenever that is possible."""
    batches = batches or len(order) // batch
    ranks = rng.permutation(groups.max() + 1)[groups[order]]
    by_group = order[np.argsort(ranks, kind="stable")]
    keys = np.sort(ranks, kind="stable")
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    within = np.arange(len(keys)) - np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
    taken = np.flatnonzero(within < batches)
    left_out = np.setdiff1d(np.arange(len(keys)), taken[: batches * batch])
    dealt = by_group[taken[: batches * batch]].reshape(batch, batches).T  # consecutive cards go to different batches
    dealt = np.stack([rng.permutation(hand) for hand in dealt[rng.permutation(batches)]])
    return np.r_[dealt.ravel(), by_group[left_out]]
