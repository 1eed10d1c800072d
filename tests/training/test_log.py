"""The log lines of a training: rates without paused time, device utilisation, and format."""

from __future__ import annotations

import pytest
import torch

from alpro.training import log
from alpro.training.log import Clock, line

CPU = torch.device("cpu")


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock's time, as the only element of a list."""
    now_s = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now_s[0])
    return now_s


def test_lap_counts_clips_of_all_ranks_without_paused_time(at: list[float]) -> None:
    clock = Clock()
    clock.clips = 40
    with clock.waiting():
        at[0] += 2
    at[0] += 6
    with pytest.raises(OSError), clock.paused():  # a failed validation does not count as training time either
        at[0] += 30
        raise OSError
    lap = clock.lap(4, CPU)
    assert lap["clips_per_s"] == pytest.approx(4 * 40 / 8)
    assert lap["data_wait"] == pytest.approx(2 / 8)
    assert 0.05 < lap["memory_gb"] < 100 and "mfu" not in lap


def test_lap_resets_the_clock(at: list[float]) -> None:
    clock = Clock()
    clock.clips = 40
    at[0] += 8
    clock.lap(1, CPU)
    clock.clips = 6
    at[0] += 3
    lap = clock.lap(1, CPU)
    assert lap["clips_per_s"] == pytest.approx(2) and lap["data_wait"] == 0


def test_utilisation_is_relative_to_the_peak_of_one_device(at: list[float]) -> None:
    clock = Clock()
    clock.clips = 16
    at[0] += 4
    flops_per_clip, peak = 5e12, 100e12
    assert clock.lap(8, CPU, flops_per_clip / peak)["mfu"] == pytest.approx(16 * flops_per_clip / 4 / peak)


def test_training_line_contains_all_figures() -> None:
    row = {"step": 120, "epoch": 3, "split": "train", "loss": 3.2109, "vtc": 1.2, "vtm": 0.51, "lr": 9.1e-05, "grad_norm": 3.25}
    times = {"clips_per_s": 41.34, "data_wait": 0.024, "memory_gb": 7.96, "mfu": 0.412}
    head = "step 120/900  epoch 3  loss 3.211 (vtc 1.2, vtm 0.51)  lr 9.1e-05  norm 3.25"
    assert line(row, {}, 900) == head
    assert line(row, times, 900) == f"{head}  41.3 clips/s  data 2 %  8.0 GB  MFU 41 %"


def test_validation_line_names_its_split_and_metrics() -> None:
    row = {"step": 120, "epoch": 3, "split": "val", "r1": 23.4567, "medianR": 5}
    assert line(row, {}, 900) == "step 120/900  epoch 3  val: r1 23.46, medianR 5"
    assert line({**row, "loss": 1.5}, {}, 900) == "step 120/900  epoch 3  val: loss 1.5, r1 23.46, medianR 5"
