"""A Checkpointer saves, commits and restores a training. Here its state is a step and a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alpro.errors import TrainingError
from alpro.training.checkpointer import Checkpointer
from alpro.training.sample_log import SampleLog
from alpro.training.snapshots import Snapshot, SnapshotStore


class Counter:
    """A training that counts its steps in a tensor."""

    def __init__(self) -> None:
        self.count = torch.zeros(3)

    def state_dict(self) -> dict[str, Any]:
        step = int(self.count[0])
        return {"shared": {"step": step, "best": {}}, "rank": {"draws": step}, "tensors": {"weights": {"count": self.count}}}

    def load_state_dict(self, state: Mapping[str, Any], snapshot: Snapshot | None, root: int) -> None:
        assert snapshot is not None and root == 0
        assert state["ranks"] == [{"draws": state["step"]}]
        self.count = snapshot.tensors("weights")["count"].clone()

    def advance(self, checkpointer: Checkpointer) -> None:
        self.count += 1
        step = int(self.count[0])
        checkpointer.uncommitted_ids.append((step, [f"a/{step}"]))


def test_empty_store_restores_nothing(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    assert not Checkpointer().restore(Counter()) and not Checkpointer(store).restore(Counter())
    assert Checkpointer(store).last_snapshot() == "no snapshot was saved yet"
    store.close()


def test_saved_training_is_restored_with_the_sample_log_of_its_step(tmp_path: Path) -> None:
    store, samples = SnapshotStore(tmp_path / "store"), SampleLog(tmp_path / "samples.jsonl")
    training, checkpointer = Counter(), Checkpointer(store, samples)
    for _ in range(2):
        training.advance(checkpointer)
    checkpointer.save(training)
    training.advance(checkpointer)
    checkpointer.commit(training)
    assert [row["ids"] for row in samples.rows()] == [["a/1"], ["a/2"], ["a/3"]] and not checkpointer.uncommitted_ids
    assert checkpointer.last_snapshot().startswith(f"the last snapshot is {tmp_path}/store/step-000000002; ")

    resumed = Counter()
    assert Checkpointer(store, samples).restore(resumed)
    assert resumed.count.tolist() == [2, 2, 2] and [row["step"] for row in samples.rows()] == [1, 2]
    store.close()


def test_elastic_training_restores_its_last_commit_and_admits_processes_only_after_one() -> None:
    training, checkpointer, joined = Counter(), Checkpointer(commit_every=2), []
    checkpointer.on_commit = lambda: joined.append(int(training.count[0]))
    for step in range(1, 6):
        training.advance(checkpointer)
        if checkpointer.commit_is_due(step):
            checkpointer.commit(training)
        checkpointer.after_step()
    assert joined == [2, 4]
    assert checkpointer.restore(training) and training.count.tolist() == [4, 4, 4]
    assert not checkpointer.uncommitted_ids


@pytest.mark.parametrize("on_disk", [True, False])
def test_best_weights_are_loaded_and_missing_ones_reported(tmp_path: Path, on_disk: bool) -> None:
    model = nn.Linear(2, 1)
    checkpointer = Checkpointer(SnapshotStore(tmp_path) if on_disk else None)
    best: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}
    checkpointer.save_best(3, dict(model.named_parameters()))
    nn.init.zeros_(model.weight)
    checkpointer.load_best(model, 3)
    assert torch.equal(model.weight, best["weight"])
    with pytest.raises(TrainingError, match="best weights"):
        checkpointer.load_best(model, 4)
    if checkpointer.store is not None:
        checkpointer.store.close()
