"""Artifacts of a run: results, validation, plots, links to MLflow and the gate's decision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alpro.registry.gate import GateCheck, Verdict
from alpro.registry.promotion import Promotion
from alpro.tracking.mlflow_runs import SyncResult
from flows.artifacts import (
    GateDecision,
    MlflowRuns,
    gate_text,
    keep_data_docs,
    lineage_text,
    metric_rows,
    plots,
    validation_text,
)


def test_artifacts_show_the_results_of_the_stages(tmp_path: Path) -> None:
    evaluated = tmp_path / "reports/evaluate/msrvtt_ret"
    evaluated.mkdir(parents=True)
    (evaluated / "metrics.json").write_text(
        json.dumps({"n": 100, "chance": 1.0, "text2video": {"r1": 30.25, "medianR": 4.0}, "ci95": {}})
    )
    validated = tmp_path / "reports/validate/msvd_qa"
    validated.mkdir(parents=True)
    (validated / "metrics.json").write_text(json.dumps({"errors": 0, "warnings": 2, "checks": {"row_once": 2}}))
    assert metric_rows(tmp_path, {"evaluate@msrvtt_ret", "evaluate@not_there", "report"}) == [
        {"task": "msrvtt_ret", "n": "100", "chance": "1.00", "r1": "30.25", "medianR": "4.00"}
    ]
    text = validation_text(tmp_path, {"validate@msvd_qa"}, MlflowRuns())
    assert text and "| msvd_qa | 0 | 2 | row_once 2 |" in text and "`index.html` of its record" in text
    assert validation_text(tmp_path, {"report"}, MlflowRuns()) is None


def test_findings_of_a_failed_validation_are_kept_after_the_run(tmp_path: Path) -> None:
    checkout, place = tmp_path / "checkout", tmp_path / "place"
    for root, text in ((checkout, "mine"), (place, "of the run")):
        record = root / "reports/validate/msvd_qa"
        record.mkdir(parents=True)
        (record / "index.html").write_text(text)
        (record / "metrics.json").write_text(json.dumps({"errors": 3, "warnings": 0, "checks": {"readable": 3}}))
    for _ in range(2):
        found = keep_data_docs("validate@msvd_qa", place, checkout)
        assert found == ".state/failed/validate/msvd_qa/index.html" and (checkout / found).read_text() == "of the run"
    text = validation_text(place, {"validate@msvd_qa"}, MlflowRuns(), found)
    assert text and f"| msvd_qa | 3 | 0 | readable 3 | `{found}` |" in text
    assert keep_data_docs("validate@msvd_qa", checkout, checkout) == "reports/validate/msvd_qa/index.html"
    assert keep_data_docs("validate@other", place, checkout) is keep_data_docs("report", place, checkout) is None


def test_artifacts_of_a_run_link_to_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = SyncResult("sqlite:///x", "7", "abc123", registered=["alpro-a/1"], runs={"evaluate/msvd_qa": "def456"}).as_dict()
    monkeypatch.delenv("ALPRO_MLFLOW_PAGE", raising=False)
    assert MlflowRuns.from_json(sync).link() == "MLflow's run `abc123`"
    monkeypatch.setenv("ALPRO_MLFLOW_PAGE", "http://127.0.0.1:5000")
    mlflow = MlflowRuns.from_json(sync)
    assert mlflow.link() == "[MLflow's run](http://127.0.0.1:5000/#/experiments/7/runs/abc123?workflowType=machine_learning)"
    assert mlflow.image("evaluate/msvd_qa", "plots/a.png") == (
        "http://127.0.0.1:5000/get-artifact?path=plots/a.png&run_uuid=def456"
    )
    assert mlflow.image("evaluate/other", "plots/a.png") is None and MlflowRuns().link() == "not in MLflow"
    assert lineage_text(tmp_path, None, mlflow).endswith("- new model versions: alpro-a/1")
    picture = tmp_path / "reports" / "evaluate" / "msvd_qa" / "plots" / "a.png"
    picture.parent.mkdir(parents=True)
    picture.touch()
    assert plots(tmp_path, {"evaluate@msvd_qa", "finetune@msvd_qa"}) == [("evaluate/msvd_qa", "plots/a.png")]


def test_gate_artifact_is_made_from_the_json_of_promote() -> None:
    checks = (
        GateCheck("clean", True, "0123456789", needed="a commit"),
        GateCheck("gain of overall_acc", False, "40.00 (-1.00)", "41.00", "more than 0"),
    )
    refused = Promotion("alpro-mine/12", "alpro-mine/3", Verdict(checks), moved=False).as_dict()
    assert GateDecision.from_json(refused) == GateDecision(False, "12", False)
    assert gate_text(refused).splitlines() == [
        "**alpro-mine/12** against alpro-mine/3",
        "",
        "| | check | candidate | champion | needed |",
        "|---|---|---|---|---|",
        "| ok | clean | 0123456789 |  | a commit |",
        "| **NO** | gain of overall_acc | 40.00 (-1.00) | 41.00 | more than 0 |",
        "",
        "refused: gain of overall_acc (40.00 (-1.00); needed: more than 0); no alias was moved",
    ]
    champion = Promotion("alpro-mine/12", "alpro-mine/12", None, moved=False).as_dict()
    assert GateDecision.from_json(champion) == GateDecision(True, "12", True)
    assert gate_text(champion).splitlines()[-1] == "alpro-mine/12 is already the champion; no alias was moved"
