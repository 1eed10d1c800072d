"""A stage's record: its content, identical bytes for every world size, and errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alpro.config import Loader, Params
from alpro.data.annotations.records import Record
from alpro.data.batches import clip_frames
from alpro.errors import ConfigError, DataError
from alpro.evaluation import plots, run
from alpro.evaluation.run import run_evaluation
from alpro.files.atomic import sha256
from tests.evaluation.conftest import ANSWERS, OTHER_LABELS


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def retrieval(params: Params, project: Path) -> Path:
    run_evaluation(params, "msrvtt_ret", checkpoint=params.evaluate["msrvtt_ret"].checkpoint, record=project / "record/ret")
    return project / "record/ret"


@pytest.fixture(scope="module")
def qa(params: Params, project: Path) -> Path:
    run_evaluation(params, "msvd_qa", checkpoint=params.evaluate["msvd_qa"].checkpoint, record=project / "record/qa")
    return project / "record/qa"


def test_retrieval_record_has_figures_chance_intervals_and_ablations(retrieval: Path, records: list[Record]) -> None:
    metrics = json.loads((retrieval / "metrics.json").read_text())
    assert json.loads((retrieval / "headline.json").read_text()) == {"msrvtt_ret": metrics["text2video"]["r1"]}
    assert metrics["n"] == 12 and metrics["videos"] == 10
    assert metrics["chance"] == 10
    for figures in (metrics, metrics["blind"], metrics["one_frame"]):
        for direction in ("text2video", "video2text"):
            assert set(figures[direction]) == {"r1", "r5", "r10", "medianR", "meanR"} == set(figures["ci95"][direction])
            for name, value in figures[direction].items():
                low, high = figures["ci95"][direction][name]
                assert low <= value <= high
    assert metrics["blind"]["gain"]["r1"] == pytest.approx(
        metrics["text2video"]["r1"] - metrics["blind"]["text2video"]["r1"], abs=1e-5
    )


def test_retrieval_predictions_have_one_row_per_query(retrieval: Path) -> None:
    found = rows(retrieval)
    assert [row["direction"] for row in found] == ["text2video"] * 12 + ["video2text"] * 10
    for row in found[:12]:
        places = [video for video, _ in row["top"]]
        assert len(places) == 5
        assert (row["video"] in places) == (row["rank"] <= 5)
        assert row["rank_optimistic"] <= row["rank"] <= row["rank_pessimistic"]
        assert {"rank_blind", "rank_one_frame"} <= set(row)
    histogram = list(csv.DictReader((retrieval / "plots/rank_histogram.csv").open()))
    for direction, queries in (("text to video", 12), ("video to text", 10)):
        assert sum(int(bar["queries"]) for bar in histogram if bar["direction"] == direction) == queries


def test_qa_record_has_accuracy_majority_and_ablations(qa: Path, records: list[Record]) -> None:
    metrics = json.loads((qa / "metrics.json").read_text())
    assert json.loads((qa / "headline.json").read_text()) == {"msvd_qa": metrics["overall_acc"]}
    by_type = list(csv.DictReader((qa / "plots/accuracy_by_type.csv").open()))
    assert [(row["type"], row["video"]) for row in by_type[:3]] == [
        ("overall", "full model"), ("overall", "one frame"), ("overall", "video-blind"),
    ]  # fmt: skip
    assert all(float(row["low"]) <= float(row["accuracy"]) <= float(row["high"]) for row in by_type)
    asked = [question for record in records for question in record.questions]
    assert metrics["n"] == len(asked)
    assert metrics["ratios"]["what_ratio"][1] + metrics["ratios"]["who_ratio"][1] == len(asked)
    assert {"overall_acc", "what_acc", "who_acc", "top5_acc", "calibration_error", "majority", "blind", "one_frame"} <= set(
        metrics
    )
    assert set(metrics["ci95"]) == {"overall_acc", "what_acc", "who_acc"}
    assert "motion" not in metrics  # only the synthetic sample marks the questions that need motion
    found = rows(qa)
    assert 100 * sum(row["correct"] for row in found) / len(found) == pytest.approx(metrics["overall_acc"], abs=1e-5)
    assert all(len(row["top"]) == 5 and row["blind"] and row["one_frame"] for row in found)


@pytest.mark.parametrize("task", ["msrvtt_ret", "msvd_qa"])
def test_record_is_reproducible_in_any_world(
    task: str, retrieval: Path, qa: Path, params: Params, project: Path, worlds: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = digests(retrieval if task == "msrvtt_ret" else qa)
    assert any(name.endswith(".png") for name in expected)
    checkpoint = params.evaluate[task].checkpoint
    again = project / "again" / task
    monkeypatch.setattr(run.distributed, "barrier", lambda: None)
    worlds(2, lambda: run_evaluation(params, task, checkpoint=checkpoint, record=again))
    assert digests(again) == expected


def test_frame_cache_changes_no_byte_and_spares_the_second_evaluation_all_decoding(
    retrieval: Path, params: Params, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = params.model_copy(update={"loader": Loader(cache=str(project / "cache"))})
    checkpoint = params.evaluate["msrvtt_ret"].checkpoint
    run_evaluation(cached, "msrvtt_ret", checkpoint=checkpoint, record=project / "filled")
    monkeypatch.setattr(clip_frames, "read_frames", lambda path, *_: pytest.fail(f"{path} is decoded again"))
    run_evaluation(cached, "msrvtt_ret", checkpoint=checkpoint, record=project / "cached")
    assert digests(project / "filled") == digests(project / "cached") == digests(retrieval)


def test_record_identifies_checkpoint_and_data(qa: Path, params: Params) -> None:
    inputs = json.loads((qa / "params.json").read_text())
    assert inputs["checkpoint_sha256"] == sha256(Path(params.evaluate["msvd_qa"].checkpoint) / "model.safetensors")
    assert inputs["annotations_sha256"] == sha256(inputs["annotations"])
    assert inputs["num_frames"] == 4 and inputs["frames"] == "uniform" and inputs["evaluate"]["batch_pairs"] == 64


def test_zero_shot_of_an_untrained_model_is_evaluated(params: Params, project: Path) -> None:
    scratch = Path(__file__).parents[2] / "recipes/init/scratch.yaml"
    found = run_evaluation(params, "msrvtt_ret", checkpoint=scratch, record=project / "zero", zero_shot=True, modes=("full",))
    assert found["n"] == 12 and "blind" not in found


def test_task_without_settings_is_reported(params: Params, project: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.msrvtt_re: not in params.yaml; did you mean 'msrvtt_ret'"):
        run_evaluation(params, "msrvtt_re", checkpoint="x", record=project / "none")


def test_checkpoint_with_another_vocabulary_is_refused(params: Params, project: Path) -> None:
    scratch = Path(__file__).parents[2] / "recipes/init/scratch.yaml"
    other = params.model_copy(update={"model": params.model.model_copy(update={"vocab_size": 99})})
    with pytest.raises(DataError, match="vocab"):
        run_evaluation(other, "msrvtt_ret", checkpoint=scratch, record=project / "none", zero_shot=True)
    assert not (project / "none").exists()


def test_each_rank_is_in_one_bin() -> None:
    for gallery in (1, 2, 5, 11, 120, 1000, 2990):
        bins = plots.rank_bins(gallery)
        assert [rank for low, high in bins for rank in range(low, high + 1)] == list(range(1, gallery + 1))


def test_answers_in_the_checkpoints_folder_are_used(params: Params) -> None:
    dataset = params.datasets["msvd_qa"]
    assert run.answer_list(params.evaluate["msvd_qa"].checkpoint, dataset) == ANSWERS
    assert run.answer_list("nowhere", dataset) == OTHER_LABELS
