"""The replication table: checkpoints on disk are evaluated once, others say "not run", the rest of the page is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from alpro.checkpoints.files import export_official
from alpro.config import Params
from alpro.errors import DataError
from alpro.evaluation import replication
from alpro.evaluation.official import evaluate_checkpoint
from alpro.evaluation.replication import BEGIN, END, PAPER, present_checkpoints, replicate, table, within
from alpro.models import build_model
from tests.evaluation.conftest import ANSWERS

MSRVTT, ZERO_SHOT, MSVD = PAPER[0], PAPER[2], PAPER[5]
AROUND = f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n"


@pytest.fixture
def official(tmp_path: Path, project: Path, retrieval_model: Any, qa_model: Any) -> Path:
    """The folders of the released output.zip, with small models."""
    root = tmp_path / "output"
    export_official(retrieval_model, root / "downstreams/msrvtt_ret/public/ckpt/model_step_best.pt")
    export_official(qa_model, root / "downstreams/msvd_qa/public/ckpt/model_step_120.pt")
    pretrained = build_model("pretrain", num_frames=4, config=retrieval_model.config, num_entities=3)
    export_official(pretrained, root / "pretrain/alpro_pretrained_ckpt.pt")
    return root


@pytest.fixture
def without_own(params: Params, tmp_path: Path) -> Params:
    """The same parameters without checkpoints of our own, and with the matching answer list in the dataset."""
    missing = {t: e.model_copy(update={"checkpoint": str(tmp_path / "none")}) for t, e in params.evaluate.items()}
    folder = tmp_path / "msvd_qa"
    shutil.copytree(params.datasets["msvd_qa"].annotations, folder)
    (folder / "train_ans2label.json").write_text(json.dumps(ANSWERS))
    datasets = params.datasets | {"msvd_qa": params.datasets["msvd_qa"].model_copy(update={"annotations": str(folder)})}
    return params.model_copy(update={"evaluate": missing, "datasets": datasets})


def test_official_checkpoints_fill_their_rows_and_others_say_not_run(
    official: Path, without_own: Params, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(AROUND)
    rows = replicate(without_own, page, tmp_path / "records", official)
    assert [row["figure"] for row in rows] == [MSRVTT.title, ZERO_SHOT.title, MSVD.title]
    text = page.read_text()
    assert text.startswith(f"# Title\n\n{BEGIN}\n| figure ") and text.endswith(f"|\n{END}\n\nafter\n")
    lines = {line.split("|")[1].split(",")[0].strip(): line for line in text.splitlines() if line.startswith("| MSR")}
    assert "not run" in lines["MSRVTT-QA"] and text.count("not run") == 3 and "old" not in text

    (row,) = (row for row in rows if row["figure"] == MSRVTT.title)
    folder = official / "downstreams/msrvtt_ret/public"
    direct = evaluate_checkpoint(without_own, "msrvtt_ret", folder, output=tmp_path / "direct")["text2video"]
    assert row["figures"] == pytest.approx({name: direct[name] for name in MSRVTT.metrics}, abs=0.01)
    assert row["ci95"][0] <= row["figures"]["r1"] <= row["ci95"][1]
    assert f"--checkpoint {folder} --recipe tiny" in row["command"] and row["command"] in text and row["date"] in text
    qa = next(row for row in rows if row["figure"] == MSVD.title)
    direct_qa = evaluate_checkpoint(
        without_own, "msvd_qa", official / "downstreams/msvd_qa/public", step="last", output=tmp_path
    )
    assert qa["figures"]["overall_acc"] == pytest.approx(direct_qa["overall_acc"], abs=0.01)


def test_checkpoints_are_evaluated_again_only_if_their_weights_changed(
    official: Path, without_own: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[str] = []
    real = replication.run_evaluation
    monkeypatch.setattr(replication, "run_evaluation", lambda *a, **k: evaluated.append(a[1]) or real(*a, **k))
    page = tmp_path / "page.md"
    page.write_text(AROUND)
    first = replicate(without_own, page, tmp_path / "records", official)
    text = page.read_text()
    assert replicate(without_own, page, tmp_path / "records", official) == first and page.read_text() == text
    assert evaluated == ["msrvtt_ret", "msrvtt_ret", "msvd_qa"]
    other = build_model("retrieval", num_frames=4, config=without_own.model, seed=5)
    export_official(other, official / "downstreams/msrvtt_ret/public/ckpt/model_step_best.pt")
    again = replicate(without_own, page, tmp_path / "records", official)
    assert evaluated[3:] == ["msrvtt_ret"] and len(again) == 3  # the new row replaces the old one


def test_own_checkpoints_are_listed_with_official_ones(official: Path, params: Params) -> None:
    found = [(present.figure.title, present.checkpoint) for present in present_checkpoints(params, official)]
    assert found == [
        (MSRVTT.title, str(official / "downstreams/msrvtt_ret/public")),
        (MSRVTT.title, params.evaluate["msrvtt_ret"].checkpoint),
        (ZERO_SHOT.title, str(official / "pretrain/alpro_pretrained_ckpt.pt")),
        (PAPER[3].title, str(official / "pretrain/alpro_pretrained_ckpt.pt")),
        (MSVD.title, str(official / "downstreams/msvd_qa/public")),
        (MSVD.title, params.evaluate["msvd_qa"].checkpoint),
    ]


def test_checkpoint_without_its_data_is_reported_and_not_run(official: Path, without_own: Params, tmp_path: Path) -> None:
    gone = {name: d.model_copy(update={"annotations": str(tmp_path / "gone")}) for name, d in without_own.datasets.items()}
    page, messages = tmp_path / "page.md", []
    page.write_text(AROUND)
    rows = replicate(without_own.model_copy(update={"datasets": gone}), page, tmp_path / "r", official, messages.append)
    assert rows == [] and page.read_text().count("not run") == len(PAPER)
    assert any("its data are missing" in line and "gone" in line for line in messages)


def test_page_without_the_markers_is_unchanged(params: Params, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{END}\n{BEGIN}\n")
    with pytest.raises(DataError, match="must hold the two lines"):
        replicate(params, page, tmp_path / "records", tmp_path)
    assert page.read_text() == f"{END}\n{BEGIN}\n"


@pytest.mark.parametrize(("content", "fault"), [("[", "line 1, column 2: not valid JSON"), ("{}", "not a list of rows")])
def test_damaged_results_are_reported_and_kept(content: str, fault: str, params: Params, tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "records" / "results.json"
    page.write_text(AROUND)
    results.parent.mkdir()
    results.write_text(content)
    with pytest.raises(DataError, match=rf"results\.json: {fault}.*; delete it to evaluate"):
        replicate(params, page, results.parent, tmp_path)
    assert results.read_text() == content


def test_within_tolerance_requires_every_recall_or_the_overall_accuracy() -> None:
    assert within(MSRVTT, {"r1": 32.4, "r5": 62.2, "r10": 73.2, "medianR": 9})
    assert not within(MSRVTT, {"r1": 33.9, "r5": 60.7, "r10": 71.6, "medianR": 3})
    assert within(MSVD, {"overall_acc": 45.0, "when_acc": 10.0})
    assert not within(MSVD, {"overall_acc": 44.4})


def test_page_of_the_project_has_the_tables_markers() -> None:
    text = (Path(__file__).parents[2] / "docs/replication.md").read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert all(figure.title in text for figure in PAPER) and len(table([]).splitlines()) == 2 + len(PAPER)
