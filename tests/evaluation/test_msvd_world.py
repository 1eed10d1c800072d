"""Each of MSVD-QA's 13,157 questions counts once, with the same answer and score, on any number of processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.processes import both_backends, done, world

from .msvd_world import QUESTIONS, TYPES, VIDEOS, make, records


def test_synthetic_annotations_have_the_shape_of_msvd_qa(tmp_path: Path) -> None:
    found = records(tmp_path)
    asked = [question for record in found for question in record.questions]
    assert len(found) == VIDEOS == 504 and sorted(q.id for q in asked) == list(range(13_157))
    assert {kind: sum(q.type == kind for q in asked) for kind in TYPES} == TYPES
    assert min(len(record.questions) for record in found) >= 1


@pytest.mark.slow
@both_backends
def test_every_question_counts_once_on_one_two_and_three_processes(tmp_path: Path, backend: str) -> None:
    folder = tmp_path / "made"
    make(folder)
    results = []
    for processes in (1, 2, 3):
        done(world(processes, ["-m", "tests.evaluation.msvd_world", str(folder)], backend=backend))
        results.append(json.loads((folder / f"world{processes}.json").read_text()))
    alone = results[0]
    assert [row[0] for row in alone["rows"]] == list(range(QUESTIONS))
    assert {kind: alone["metrics"]["ratios"][f"{kind}_ratio"][1] for kind in TYPES} == TYPES
    for other in results[1:]:
        assert other["metrics"] == alone["metrics"]
        for one, two in zip(alone["rows"], other["rows"], strict=True):
            assert one[:4] == two[:4]
            assert [answer for answer, _ in one[4]] == [answer for answer, _ in two[4]]
            assert [score for _, score in one[4]] == pytest.approx([score for _, score in two[4]], abs=1e-6)
