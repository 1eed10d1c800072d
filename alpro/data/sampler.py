"""Which samples make which batch: a pure function of (seed, micro-step), the same on every process.

N processes with B samples each see, together, the batches of one process with N x B; a training resumes in the middle
of an epoch from the number of its step alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from alpro.data.seeds import numpy_rng
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
        self.total_steps = epochs * self.steps_per_epoch
        self._groups = {name: g for name in lengths if distinct_videos and (g := (groups or {}).get(name)) is not None}
        self._orders: dict[tuple[str, int], np.ndarray] = {}
        self._mixed: tuple[int, np.ndarray] | None = None
        self._before = [np.zeros(len(self.corpora), dtype=np.int64)]  # steps of each corpus before an epoch
        for name in self.corpora:
            self._check(name)

    def at(self, step: int) -> Draw:
        """The global batch of a micro-step, from 0. Raises IndexError outside the training."""
        if not 0 <= step < self.total_steps:
            raise IndexError(f"step {step} of a training of {self.total_steps}")
        epoch, within = divmod(step, self.steps_per_epoch)
        corpora = self._mix(epoch)
        number = int(corpora[within])
        name = self.corpora[number]
        turn = int(self._steps_before(epoch)[number] + np.count_nonzero(corpora[:within] == number))
        corpus_epoch, batch = divmod(turn, self.batches[name])
        order = self._order(name, corpus_epoch if self.reshuffle else 0)
        return Draw(name, corpus_epoch, order[batch * self.global_batch : (batch + 1) * self.global_batch])

    def local(self, step: int, rank: int) -> Draw:
        """What one process takes of it: a contiguous part, in the order of ranks."""
        draw = self.at(step)
        return Draw(draw.corpus, draw.epoch, draw.indices[rank * self.batch_size : (rank + 1) * self.batch_size])

    def epoch_of(self, step: int) -> int:
        """The training's epoch, from 0, that a step belongs to."""
        return step // self.steps_per_epoch

    def _mix(self, epoch: int) -> np.ndarray:
        """(steps_per_epoch,) the corpus of each step of an epoch."""
        if self._mixed is None or self._mixed[0] != epoch:
            rng = numpy_rng(self.seed, "mix", epoch)
            kinds = np.arange(len(self.corpora), dtype=np.int8)
            if len(kinds) == 1:
                drawn = np.zeros(self.steps_per_epoch, dtype=np.int8)
            elif self.mix == "equal":
                drawn = rng.randint(0, len(kinds), self.steps_per_epoch).astype(np.int8)
            else:
                drawn = rng.permutation(np.repeat(kinds, [self.batches[name] for name in self.corpora]))
            self._mixed = epoch, drawn
        return self._mixed[1]

    def _steps_before(self, epoch: int) -> np.ndarray:
        """(corpora,) how many steps each corpus had before an epoch."""
        while len(self._before) <= epoch:
            counts = np.bincount(self._mix(len(self._before) - 1), minlength=len(self.corpora))
            self._before.append(self._before[-1] + counts)
        return self._before[epoch]

    def _order(self, name: str, epoch: int) -> np.ndarray:
        """The samples of a corpus in the order of an epoch, those left out at the end."""
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


def _dealt(order: np.ndarray, groups: np.ndarray, batch: int, rng: np.random.RandomState) -> np.ndarray:
    """Samples sorted by group and dealt like cards: each batch gets at most one of a group, whenever that is possible."""
    batches = len(order) // batch
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
