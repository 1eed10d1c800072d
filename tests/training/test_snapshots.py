"""Snapshots are complete or absent, damaged ones are reported and skipped, and a store has one process at a time."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from alpro.errors import TrainingError
from alpro.files.locks import Lock
from alpro.training.snapshots import KEEP, MANIFEST, SnapshotStore, find_damage, prune
from tests.training.processes import forked


def filled(path: Path, steps: int = 3) -> SnapshotStore:
    store = SnapshotStore(path, say=print)
    for step in range(1, steps + 1):
        store.save({"step": step, "best": {}}, weights={"w": torch.full((4,), float(step))})
    return store


def test_last_snapshots_are_kept_and_the_newest_is_restored_exactly(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", steps=4)
    assert len(list(store.path.glob("step-*"))) == KEEP
    newest = store.newest()
    assert newest is not None and newest.state["step"] == 4
    assert torch.equal(newest.tensors("weights")["w"], torch.full((4,), 4.0))
    store.delete()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "no manifest", "half manifest"])
def test_damaged_snapshot_falls_back_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    store = filled(tmp_path / "s")
    newest = store.last()
    assert newest is not None
    weights, manifest = newest / "weights.safetensors", newest / MANIFEST
    if damage == "flip":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-3])
    elif damage == "missing":
        weights.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:10])
    intact = store.newest()
    assert intact is not None and intact.state["step"] == 2
    assert "falling back" in capsys.readouterr().out
    store.close()


def test_snapshot_with_damaged_best_weights_is_skipped(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "s", say=lambda text: None)
    store.save_best(1, {"w": torch.ones(2)})
    store.save({"step": 2, "best": {"step": 1}}, weights={})
    store.save_best(3, {"w": torch.ones(2)})
    store.save({"step": 4, "best": {"step": 3}}, weights={})
    shutil.rmtree(store.path / "best-000000003")
    intact = store.newest()
    assert intact is not None and intact.state["step"] == 2
    store.close()


def test_unreferenced_best_weights_are_deleted(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "s")
    for step in (1, 2, 3):
        store.save_best(step, {"w": torch.ones(2)})
        store.save({"step": step, "best": {"step": step}}, weights={})
    assert sorted(path.name for path in store.path.glob("best-*")) == ["best-000000002", "best-000000003"]
    store.close()


def test_second_training_is_refused_unless_the_first_is_dead(tmp_path: Path) -> None:
    def hold() -> None:
        SnapshotStore(tmp_path / "s")
        (tmp_path / "held").touch()
        signal.pause()

    with forked(hold) as child:
        while not (tmp_path / "held").exists():
            time.sleep(0.01)
        with pytest.raises(TrainingError, match=f"a training is already running .process {child} ") as refused:
            SnapshotStore(tmp_path / "s")
        assert "\n" not in str(refused.value)
    SnapshotStore(tmp_path / "s").close()  # the holder was killed, which released its lock


def test_kill_while_writing_leaves_a_complete_snapshot(tmp_path: Path) -> None:
    def write() -> None:
        store = SnapshotStore(tmp_path / "s", say=lambda text: None)
        last = store.newest()
        step = last.state["step"] if last else 0
        while True:
            step += 1
            store.save_best(step, {"w": torch.full((50_000,), float(step))})
            store.save({"step": step, "best": {"step": step}}, weights={"w": torch.full((50_000,), float(step))})

    reached = 0
    generator = torch.Generator().manual_seed(3)
    for _ in range(12):
        with forked(write) as child:
            time.sleep(0.02 + 0.2 * torch.rand((), generator=generator).item())
            os.kill(child, signal.SIGKILL)
        store = SnapshotStore(tmp_path / "s", say=pytest.fail)  # a kill damages nothing, so there is no fallback
        newest = store.newest()
        if newest is not None:
            step = newest.state["step"]
            assert step >= reached and find_damage(newest.path) == ""
            assert torch.equal(store.best(step).tensors("weights")["w"], torch.full((50_000,), float(step)))
            assert not [path for path in store.path.iterdir() if path.name.startswith(".")]
            reached = step
        store.close()
    assert reached > 0


def test_old_stores_of_a_stage_are_deleted_unless_in_use(tmp_path: Path) -> None:
    for number in range(5):
        filled(tmp_path / f"old{number}", 1).close()
        os.utime(tmp_path / f"old{number}", (number, number))

    def hold() -> None:
        Lock(tmp_path / "old0" / "lock")
        (tmp_path / "held").touch()
        signal.pause()

    with forked(hold):
        while not (tmp_path / "held").exists():
            time.sleep(0.01)
        os.utime(tmp_path / "old0", (0, 0))
        prune(tmp_path, tmp_path / "old4")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["old0", "old2", "old3", "old4"]
