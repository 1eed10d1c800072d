"""A sync makes the store a mirror of the records: complete and without duplicates, whatever happened to it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from alpro.config import parse
from alpro.errors import TrackingError
from alpro.registry import status, sync
from alpro.tracking import mlflow_runs
from alpro.tracking.records import read_records, row_points
from alpro.tracking.runs import PARENT_RUN
from tests.tracking.tracked_project import METRICS, STEPS, contents, history, stages_of, write_record

TRAINED = "finetune/msvd_qa"


def test_every_stage_is_a_child_run_of_one_parent(mirror, params):
    store = contents(mirror)
    assert set(store.runs) == {None, *stages_of(params)}
    (parent,) = store.runs[None]
    for stage in stages_of(params):
        (run,) = store.runs[stage]
        assert run.data.tags[PARENT_RUN] == parent.info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.params["model.width"] == "64"
    listed = store.client.list_artifacts(store.runs[TRAINED][0].info.run_id, "plots")
    assert {artifact.path for artifact in listed} == {"plots/curve.png"}


def test_curves_equal_the_history(mirror):
    store = contents(mirror)
    (run,) = store.runs[TRAINED]
    expected = {point for row in history(TRAINED, STEPS) for point in row_points(row)}
    logged = [metric for key in run.data.metrics for metric in store.client.get_metric_history(run.info.run_id, key)]
    assert {(m.key, m.step, m.value) for m in logged if not m.key.startswith("weights/")} == expected
    assert run.data.metrics["weights/best_step"] == 100


def test_parent_run_has_the_headline_metrics_the_data_and_the_report(mirror, params):
    store = contents(mirror)
    (run,) = store.runs[None]
    tasks = [*params.evaluate, *(f"{task}_zeroshot" for task in params.zeroshot)]
    assert run.data.metrics == {f"{task}/{name}": value for task in tasks for name, value in METRICS["text2video"].items()}
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.tags[0].value) == ("data/any/txt", "training")
    assert run.data.params["recipe"] == params.recipe
    assert {artifact.path for artifact in store.client.list_artifacts(run.info.run_id)} >= {"summary.json", "index.html"}
    assert TRAINED in run.data.tags["mlflow.note.content"]


def test_datasets_are_inputs_with_the_hash_of_dvc(mirror):
    store = contents(mirror)
    for stage, context in ((TRAINED, "training"), ("prompter", "training"), ("evaluate/msvd_qa", "evaluation")):
        (given,) = store.runs[stage][0].inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("data/any/txt", "0" * 32 + ".dir")
        assert {tag.key: tag.value for tag in given.tags} == {"mlflow.data.context": context}


def test_second_sync_changes_nothing(synced, params):
    before = contents(synced)
    done = sync(synced, params)
    after = contents(synced)
    assert (done.created, done.completed, done.registered) == ([], [], [])
    assert done.parent == before.runs[None][0].info.run_id
    assert after.number == before.number
    for stage, runs in after.runs.items():
        assert [run.data.tags for run in runs] == [run.data.tags for run in before.runs[stage]]
    assert status(synced, params).complete


def test_moved_checkout_keeps_its_artifacts(synced, params):
    sync(synced, params)
    store = contents(synced)
    source = store.client.get_model_version_download_uri("alpro-msvd_qa", "1")
    assert store.client.list_artifacts(store.runs[TRAINED][0].info.run_id, "plots")
    for place in (store.experiment.artifact_location, store.runs[TRAINED][0].info.artifact_uri, source):
        assert Path(place.removeprefix("file://")).is_relative_to(synced)


def test_another_state_gets_its_own_parent_with_a_run_of_every_stage(synced, params):
    first = contents(synced).runs[None][0].info.run_id
    write_record(synced, TRAINED, STEPS, salt="another rate")
    second = sync(synced, params)
    store = contents(synced)
    assert second.parent != first
    assert len(store.runs[None]) == 2
    under = {s: [run for run in runs if run.data.tags[PARENT_RUN] == second.parent] for s, runs in store.runs.items() if s}
    assert {stage: len(found) for stage, found in under.items()} == dict.fromkeys(stages_of(params), 1)
    assert "alpro.origin" not in under[TRAINED][0].data.tags
    (ran_first,) = (run for run in store.runs["pretrain"] if run.data.tags[PARENT_RUN] == first)
    assert under["pretrain"][0].data.tags["alpro.origin"] == ran_first.info.run_id
    assert under["pretrain"][0].data.metrics == ran_first.data.metrics

    write_record(synced, TRAINED, STEPS)  # and back
    again = sync(synced, params)
    assert (again.parent, again.created) == (first, [])


def test_deleted_store_is_restored_completely(synced, params):
    before = contents(synced)
    assert len(before.client.search_registered_models()) == 2 + len(params.datasets)
    shutil.rmtree(synced / ".mlflow")
    code = "from alpro.config import load; from alpro.registry import sync; sync('.', load())"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], cwd=synced, check=True, env=environment)
    moved = synced.rename(synced.parent / "moved")  # MLflow in this process still has the deleted file open
    after = contents(moved)
    assert set(after.runs) == set(before.runs)
    for stage, runs in after.runs.items():
        assert [run.data.metrics for run in runs] == [run.data.metrics for run in before.runs[stage]]
    assert len(after.client.search_registered_models()) == 2 + len(params.datasets)


def test_manually_deleted_run_is_restored(synced, params):
    store = contents(synced)
    store.client.delete_run(store.runs[TRAINED][0].info.run_id)
    assert status(synced, params).stages[TRAINED] == "missing"
    assert sync(synced, params).created == [TRAINED]
    assert len(contents(synced).runs[TRAINED]) == 1


def test_interrupted_sync_continues_the_same_run(project, params, monkeypatch):
    complete = mlflow_runs._complete

    def dies(store, state, parent, record, run):
        if record.stage == TRAINED:
            key, step, value = record.points[1]
            store.client.log_metric(run.info.run_id, key, value, step=step)
            raise KeyboardInterrupt
        return complete(store, state, parent, record, run)

    with monkeypatch.context() as patched:
        patched.setattr(mlflow_runs, "_complete", dies)
        with pytest.raises(KeyboardInterrupt):
            sync(project, params)
    (half,) = contents(project).runs[TRAINED]
    assert status(project, params).stages[TRAINED] == "partial"
    done = sync(project, params)
    assert TRAINED in done.completed
    store = contents(project)
    (run,) = store.runs[TRAINED]
    assert run.info.run_id == half.info.run_id
    assert len(store.client.get_metric_history(run.info.run_id, "train/loss")) == STEPS


def test_new_plots_of_the_same_record_create_no_new_run(project, params):
    sync(project, params)
    (project / "reports" / TRAINED / "plots" / "more.png").write_bytes(b"\x89PNG")
    assert sync(project, params).created == []
    store = contents(project)
    listed = {artifact.path for artifact in store.client.list_artifacts(store.runs[TRAINED][0].info.run_id, "plots")}
    assert listed == {"plots/curve.png", "plots/more.png"}


def test_record_that_differs_from_the_lock_is_reported(synced, params):
    write_record(synced, TRAINED, STEPS, salt="edited by hand")
    parent = sync(synced, params).parent
    lock_tags = {
        stage: run.data.tags["alpro.dvc.lock"]
        for stage, runs in contents(synced).runs.items()
        for run in runs
        if run.data.tags.get(PARENT_RUN) == parent
    }
    assert lock_tags.pop(TRAINED) == "differs"
    assert set(lock_tags.values()) == {"agrees"}


def test_stages_replaced_by_parameters_are_skipped(project, params):
    raw = params.model_dump(mode="json")
    raw["init"]["finetune"] = "data/official/alpro.pt"
    stages = {record.stage for record in read_records(project, parse(raw))}
    assert not stages & {"pretrain", "prompter"}
    assert TRAINED in stages


def test_commit_of_the_state_is_recorded(synced, params):
    _git(synced, "init", "-q")
    sync(synced, params)
    assert "mlflow.source.git.commit" not in contents(synced).runs[None][0].data.tags
    _commit(synced, "dvc.yaml")
    sync(synced, params)
    assert contents(synced).runs[None][0].data.tags["alpro.git.clean"] == "no"
    _commit(synced, "params.yaml", "dvc.lock", "recipes")
    sync(synced, params)
    clean = contents(synced).runs[None][0].data.tags
    assert clean["alpro.git.clean"] == "yes"
    assert clean["mlflow.source.git.commit"] == _git(synced, "rev-parse", "HEAD")
    (synced / "params.yaml").write_text((synced / "params.yaml").read_text() + "# more\n")
    sync(synced, params, tags={"alpro.flow_run": "abc"})
    assert contents(synced).runs[None][0].data.tags == clean | {"alpro.flow_run": "abc"}


def test_missing_records_are_reported_in_one_line(project, params):
    shutil.rmtree(project / "reports")
    with pytest.raises(TrackingError, match="no records of recipe tiny yet"):
        sync(project, params)


@pytest.mark.parametrize(("name", "content"), [("history.jsonl", '{"step": 1}\n{"ste'), ("metrics.json", "{")])
def test_damaged_record_is_reported(project, params, name, content):
    (project / "reports" / TRAINED / name).write_text(content)
    with pytest.raises(TrackingError, match=rf"{TRAINED}/{name}.*dvc checkout"):
        sync(project, params)


def test_store_of_another_mlflow_is_reported(project, params):
    with sqlite3.connect(project / ".mlflow" / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(TrackingError, match="written by another version of MLflow") as caught:
        sync(project, params)
    assert "\n" not in str(caught.value)


def test_file_that_is_not_a_store_is_reported(project, params):
    (project / ".mlflow" / "mlflow.db").write_text("something else, and long enough to be looked at" * 100)
    with pytest.raises(TrackingError, match="is damaged"):
        sync(project, params)


def test_unreachable_server_is_reported_in_one_line_without_the_password(project, params, monkeypatch, unused_port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://name:secret@127.0.0.1:{unused_port}")
    with pytest.raises(TrackingError, match="no MLflow server answers") as caught:
        sync(project, params)
    assert "secret" not in str(caught.value)


def test_status_does_not_create_a_store(project, params):
    shutil.rmtree(project / ".mlflow")
    result = status(project, params)
    assert set(result.stages.values()) == {"missing"}
    assert set(result.models.values()) == {"not registered"}
    assert not (project / ".mlflow").exists()
    assert str(result).endswith("incomplete: run `alpro track sync`")


def test_records_are_in_pipeline_order(project, params):
    kinds = [record.kind for record in read_records(project, params)]
    assert kinds == sorted(kinds, key=["prompter", "pretrain", "finetune", "evaluate"].index)


def _git(root: Path, *args: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *args]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def _commit(root: Path, *paths: str) -> None:
    _git(root, "add", *paths)
    _git(root, "commit", "-q", "-m", "x")
