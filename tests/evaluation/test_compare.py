"""Two runs are compared query by query, and only if they have the same queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alpro.cli.main import app
from alpro.errors import DataError
from alpro.evaluation.compare import compare_runs


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def questions(correct: list[bool], answer: str = "red") -> list[dict[str, Any]]:
    same = {"question": "what is it", "answer": answer}
    return [
        {"id": n, "video": f"v{n // 2}", "type": "what" if n % 2 else "who", "correct": hit, **same}
        for n, hit in enumerate(correct)
    ]


def queries(ranks: list[int]) -> list[dict[str, Any]]:
    return [
        {"direction": direction, "id": f"v{n}", "video": f"v{n}", "text": "a ball", "rank": rank}
        for direction in ("text2video", "video2text")
        for n, rank in enumerate(ranks)
    ]


def test_qa_runs_are_compared_overall_and_by_type(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", questions([True] * 80)), write(tmp_path / "b", questions([True, False] * 40))
    found = compare_runs(a, b, resamples=500)
    assert found.kind == "qa" and set(found.figures) == {"overall_acc", "what_acc", "who_acc"}
    assert (found.headline.a, found.headline.b, found.headline.difference) == (100, 50, 50)
    assert found.figures["what_acc"].difference == 100 and found.figures["who_acc"].difference == 0
    assert found.headline.p_value < 0.05 and found.figures["who_acc"].p_value == 1
    assert found.headline.n == 80


def test_retrieval_runs_are_compared_in_both_directions(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", queries([1, 2, 3, 20])), write(tmp_path / "b", queries([1, 6, 3, 30]))
    found = compare_runs(a, b, resamples=200)
    assert found.kind == "retrieval"
    assert set(found.figures) == {f"{d}.{m}" for d in ("text2video", "video2text") for m in ("r1", "r5", "r10", "meanR")}
    assert found.figures["text2video.r5"].difference == 25
    assert found.figures["video2text.meanR"].difference == -3.5
    assert found.headline.difference == 0


def test_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", queries([1, 2, 3, 20])), write(tmp_path / "b", queries([1, 6, 3, 30]))
    assert compare_runs(a, b, resamples=200) == compare_runs(a, b, resamples=200)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (questions([True]), "2 queries"),
        (questions([True, True], answer="blue"), "answer 'red' and 'blue'"),
        (queries([1]), "direction"),
    ],
)
def test_runs_on_different_data_are_refused(other: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", questions([True, False])), write(tmp_path / "b", other)
    with pytest.raises(DataError, match=message):
        compare_runs(a, b)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not valid JSON"), ("", "no queries"), ('{"id": 1}\n', "lacks correct")]
)
def test_damaged_records_are_reported(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "predictions.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        compare_runs(tmp_path, tmp_path)
    with pytest.raises(DataError, match="not found"):
        compare_runs(tmp_path / "none", tmp_path)


def test_command_prints_each_figure_with_interval_and_p_value(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", questions([True] * 80)), write(tmp_path / "b", questions([True, False] * 40))
    shown = CliRunner().invoke(app, ["compare", str(a), str(b), "--resamples", "500"])
    assert shown.exit_code == 0
    (overall,) = (line.split() for line in shown.stdout.splitlines() if line.startswith("overall_acc"))
    assert overall[1:4] == ["100.00", "50.00", "+50.00"]
    listed = json.loads(CliRunner().invoke(app, ["compare", str(a), str(b), "--json"]).stdout)
    assert listed["headline"] == "overall_acc" and listed["figures"]["what_acc"]["difference"] == 100
    assert listed["figures"]["overall_acc"]["p_value"] < 0.05
