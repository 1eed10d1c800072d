"""A training resumes from disk with another number of processes and reports which results are no longer exact."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from alpro.launch import heartbeat
from alpro.training.sample_log import SampleLog
from alpro.training.schedule import learning_rate
from tests.training.elastic_world import BATCH, planned
from tests.training.processes import done, torch_slow, world
from tests.training.resized_world import SAMPLES, train

FIRST, SECOND = 8, 14  # steps after which the number of processes changes: one, two, one


@torch_slow
def test_resuming_with_other_world_sizes_continues_and_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], backend: str
) -> None:
    monkeypatch.setattr(heartbeat, "_stop", threading.Event())
    train(tmp_path, FIRST)
    heartbeat._stop.clear()
    resized = done(world(2, ["-m", "tests.training.resized_world", str(tmp_path), str(SECOND)], backend=backend))
    capfd.readouterr()
    train(tmp_path)
    plan = planned(SAMPLES, 1)
    length = plan.total_steps  # of the schedule, which is compressed or stretched to a new last step
    positions = [float(step) for step in range(FIRST + 1)]
    for step, before, after, output in ((FIRST, 1, 2, resized), (SECOND, 2, 1, capfd.readouterr().out)):
        plan = plan.resized(step, after)
        total, position = plan.total_steps, positions[step]
        assert f"resume: continuing after step {step} of " in output
        assert f"resume: {after} processes instead of {before}, so the result will differ from an uninterrupted run" in output
        assert f"a batch has {after}/{before} times as many clips" in output and f"(the last is now {total})" in output
        positions[step:] = [position + k * (length - position) / (total - step) for k in range(total - step + 1)]

    result = json.loads((tmp_path / "result.json").read_text())
    assert result["step"] == total and result["worlds"] == [[0, 1], [FIRST, 2], [SECOND, 1]]
    rows = SampleLog(tmp_path / "samples.jsonl").rows()
    counts = Counter(name for row in rows for name in row["ids"])
    assert [row["step"] for row in rows] == list(range(1, total + 1))
    assert [row["processes"] for row in rows] == [1] * FIRST + [2] * (SECOND - FIRST) + [1] * (total - SECOND)
    assert (
        set(counts.values()) == {1} and SAMPLES - len(counts) < 2 * BATCH + BATCH
    )  # samples that fill no batch at either change
    assert result["read"] == [len(counts)]  # including those of the process that no longer exists

    shown = {row["step"]: row["lr"] for row in result["history"] if row["split"] == "train"}
    assert list(shown) == [*range(2, total, 2), total]
    for step, rate in shown.items():
        assert rate == pytest.approx(learning_rate(positions[step], 0.01, 0.2, length)), step
    validated = [row["step"] for row in result["history"] if row["split"] == "val"]
    assert len(validated) == 2 and validated[1] == total
    assert positions[validated[0] - 1] < round(length / 2) <= positions[validated[0]]
