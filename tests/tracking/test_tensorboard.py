"""TensorBoard's files are written only if `tracking.tensorboard` asks for them, and have the curves of the history."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from alpro.config import Tracking
from alpro.errors import TrackingError
from alpro.tracking import live
from tests.tracking.tracked_project import STEPS, history, params_of

TRAINED = "finetune/msvd_qa"
ROWS = history(TRAINED, STEPS)
ASKED = Tracking(tensorboard="board")


@pytest.fixture(autouse=True)
def without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPRO_LIVE", "off")


def train(root: Path, rows: list[dict[str, Any]], settings: Tracking | None) -> None:
    with live(TRAINED, params_of(TRAINED), root=root, settings=settings) as run:
        for row in rows:
            run.log(row)


def scalars(root: Path, name: str) -> list[tuple[int, float]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (folder,) = (root / "board" / TRAINED).iterdir()
    found = accumulator.EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in found.Scalars(name)]


def test_curves_are_written_and_those_of_a_killed_training_are_continued(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tmp_path, ROWS[:20], ASKED)
    train(tmp_path, ROWS[12:], ASKED)  # resumed from a snapshot before the kill
    for split, value in (("train", "loss"), ("val", "r1")):
        expected = [(row["step"], row[value]) for row in ROWS if row["split"] == split]
        assert scalars(tmp_path, f"{split}/{value}") == [(step, pytest.approx(number)) for step, number in expected]


def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    train(tmp_path, ROWS, None)
    assert not [*tmp_path.iterdir()]


def test_missing_package_is_named_before_the_training_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrackingError, match=r"alpro\[tensorboard\]"):
        train(tmp_path, ROWS, ASKED)
