"""Links to MLflow's pages open the view for model training."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpro.tracking import pages, store


def test_link_to_the_runs_has_the_experiment_of_the_store(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = store.quiet_mlflow().MlflowClient(store.store_uri(mirror)).get_experiment_by_name("alpro").experiment_id
    view = "workflowType=machine_learning"
    assert pages.runs_address(mirror) == f"http://127.0.0.1:5000/#/experiments/{number}/runs?{view}"
    assert pages.runs_address(mirror, "http://127.0.0.1:5001") == f"http://127.0.0.1:5001/#/experiments/{number}/runs?{view}"
    assert pages.run_page("", number, "abc") == f"#/experiments/{number}/runs/abc?{view}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.com/")
    assert pages.runs_address(mirror) == f"https://mlflow.example.com/#/experiments?{view}"


def test_link_without_a_store_opens_the_list_of_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert pages.find_experiment(f"sqlite:///{tmp_path}/mlflow.db") is None
    (tmp_path / "mlflow.db").write_bytes(b"not a database")
    assert pages.find_experiment(f"sqlite:///{tmp_path}/mlflow.db") is None
