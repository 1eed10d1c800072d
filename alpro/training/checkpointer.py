"""Saves and restores a training: snapshots on disk and in memory, best and kept weights, and the sample log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from alpro import distributed
from alpro.distributed import agreed
from alpro.errors import TrainingError
from alpro.training.sample_log import SampleLog
from alpro.training.snapshots import InMemorySnapshot, Snapshot, SnapshotStore, copy_to_memory
from alpro.training.weights import load_weights


class Resumable(Protocol):
    """A training whose state can be saved and restored: the engine."""

    def state_dict(self) -> dict[str, Any]:
        """Return `shared` (the same on every rank) and `rank` (this rank's own), both JSON, and `tensors` by group."""

    def load_state_dict(self, state: Mapping[str, Any], snapshot: Snapshot | None, root: int) -> None:
        """Load `state`: the shared part, and every rank's own part in `ranks`. Only rank `root` has a snapshot with tensors."""


class Checkpointer:
    """Saves and restores one training. All ranks call its methods together; only rank 0 has a store and a sample log."""

    def __init__(self, store: SnapshotStore | None = None, samples: SampleLog | None = None, commit_every: int = 0) -> None:
        """If `commit_every` (steps) is positive, the training is elastic: every rank keeps the last commit in memory."""
        self.store, self.samples, self.commit_every = store, samples, commit_every
        self.on_commit: Callable[[], None] | None = None  # lets waiting processes join an elastic training
        self.in_memory_snapshot: InMemorySnapshot | None = None
        self.uncommitted_ids: list[tuple[int, list[str]]] = []  # this rank's samples of each step since the last commit
        self.saved_s = time.monotonic()
        self._best_in_memory: tuple[int, dict[str, Tensor]] | None = None  # step and weights, on rank 0 if it has no store

    # --- state of the training -------------------------------------------------------------------------------------

    def save_is_due(self, every_s: float) -> bool:
        """Return True if this rank has a store and the last snapshot is at least `every_s` old."""
        return self.store is not None and time.monotonic() - self.saved_s >= every_s

    def save(self, training: Resumable) -> None:
        """Write a snapshot to disk and commit it. Raises TrainingError on every rank if the disk fails."""
        state, tensors = self._gather(training)
        with agreed("the resume state"):
            if self.store is not None:
                self.store.save(state, **tensors)
        self._commit(state, tensors)
        self.saved_s = time.monotonic()

    def commit_is_due(self, step: int) -> bool:
        """Return True if an elastic training must commit after this step."""
        return bool(self.commit_every) and step % self.commit_every == 0

    def commit(self, training: Resumable) -> None:
        """Log the samples since the last commit; an elastic training also copies the state into every rank's memory."""
        self._commit(*self._gather(training))

    def after_step(self) -> None:
        """Let waiting processes join if everything so far is committed. May leave the training by an exception."""
        if self.on_commit is not None and not self.uncommitted_ids:
            self.on_commit()

    def restore(self, training: Resumable) -> bool:
        """Load the newest state that any rank has in memory, else the newest on rank 0's disk. Return False if none exists."""
        snapshot: Snapshot | None = self.in_memory_snapshot
        steps = distributed.gather_objects(-1 if snapshot is None else snapshot.state["step"])
        root = steps.index(max(steps))
        if max(steps) < 0:
            root, snapshot = 0, self.store.newest() if self.store is not None else None
        is_root = distributed.rank() == root
        state: dict[str, Any] | None = distributed.broadcast_object(snapshot.state if snapshot and is_root else None, root)
        if state is None:
            return False
        training.load_state_dict(state, snapshot if is_root else None, root)
        self.uncommitted_ids = []
        if self.samples is not None:
            self.samples.resume(state["step"], state["samples"])
        return True

    def last_snapshot(self) -> str:
        """Describe for an error message, on every rank, how to resume the training."""
        last = self.store.last() if self.store is not None else None
        path = distributed.broadcast_object(str(last) if last else None)
        if path is None:
            return "no snapshot was saved yet"
        return f"the last snapshot is {path}; run the same command again to resume from it"

    def _gather(self, training: Resumable) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Return the state of all ranks, the same on every rank, and the tensors."""
        state = training.state_dict()
        ranks = distributed.gather_objects({**state["rank"], "samples": self.uncommitted_ids})
        samples = [
            {"step": rank_steps[0][0], "processes": len(ranks), "ids": [name for _, ids in rank_steps for name in ids]}
            for rank_steps in zip(*(rank.pop("samples") for rank in ranks), strict=True)
        ]
        logged = self.samples is not None or self.commit_every > 0
        return {**state["shared"], "ranks": ranks, "samples": samples if logged else []}, state["tensors"]

    def _commit(self, state: dict[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        if self.commit_every:
            self.in_memory_snapshot = copy_to_memory(self.in_memory_snapshot, state, **tensors)
        self.uncommitted_ids = []
        with agreed("the sample log"):
            if self.samples is not None:
                self.samples.extend(state["samples"])

    # --- weights for the checkpoints at the end --------------------------------------------------------------------

    def save_best(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Save the best weights so far: on disk, or in rank 0's memory if it has no store."""
        with agreed("the best weights"):
            if self.store is not None:
                self.store.save_best(step, weights)
            elif distributed.rank() == 0:
                self._best_in_memory = step, {name: tensor.detach().clone() for name, tensor in weights.items()}

    def load_best(self, model: nn.Module, step: int) -> None:
        """Load the best weights, by their step, into the model of every rank. Raises TrainingError if they are damaged."""
        with agreed("the best weights"):
            if distributed.rank() == 0:
                load_weights(model, self._best_weights(step))
        distributed.broadcast_state(model)

    def _best_weights(self, step: int) -> dict[str, Tensor]:
        if self.store is not None:
            return self.store.best(step).tensors("weights")
        if self._best_in_memory is None or self._best_in_memory[0] != step:
            raise TrainingError(f"the best weights, of step {step}, were lost with the process that held them; train again")
        return self._best_in_memory[1]

    def keep(self, name: str, step: int, weights: Mapping[str, Tensor]) -> None:
        """Save weights on disk until the training ends, under a name; without a store nothing is saved."""
        with agreed(f"the checkpoint {name}"):
            if self.store is not None:
                self.store.keep(name, step, weights)
