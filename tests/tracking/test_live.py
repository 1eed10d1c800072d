"""A live run is visible in MLflow during the training, and an unreachable store neither stops nor slows the training."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from alpro.registry import sync
from alpro.tracking import live, live_run
from alpro.tracking.records import flat_params
from alpro.tracking.runs import LIVE, PARENT_RUN
from alpro.tracking.writer import Writer
from tests.tracking.tracked_project import STEPS, contents, history, params_of, with_store

TRAINED = "finetune/msvd_qa"
ROWS = history(TRAINED, STEPS)


def writer(root: Path, stage: str = TRAINED, salt: str = "", key: str = "key") -> Writer:
    return Writer(stage, flat_params(params_of(stage, salt)), key, str(root))


def send(one: Writer, rows: list[dict], end: str = "") -> Writer:
    for row in rows:
        one.add(row, at_ms=int(time.time() * 1000))
    one.send(end=end)
    return one


def curve(root: Path, stage: str = TRAINED, key: str = "train/loss") -> list[tuple[int, float]]:
    store = contents(root)
    (run,) = store.runs[stage]
    return sorted((metric.step, metric.value) for metric in store.client.get_metric_history(run.info.run_id, key))


LOSSES = sorted((row["step"], row["loss"]) for row in ROWS if row["split"] == "train")


def test_ended_live_run_is_completed_not_duplicated(project, params):
    send(writer(project), ROWS, end="FINISHED")
    (before,) = contents(project).runs[TRAINED]
    assert (before.info.status, before.data.tags[LIVE]) == ("FINISHED", "open")
    done = sync(project, params)
    (after,) = contents(project).runs[TRAINED]
    assert TRAINED in done.completed
    assert after.info.run_id == before.info.run_id
    assert after.info.end_time == before.info.end_time
    assert (after.data.tags[PARENT_RUN], after.data.tags[LIVE]) == (done.parent, "done")
    assert after.data.metrics["weights/best_step"] == 100
    assert curve(project) == LOSSES


def test_live_run_may_have_more_values_than_the_record(project, params):
    send(writer(project), [{**row, "clips_per_s": 40.0 + row["step"]} for row in ROWS], end="FINISHED")
    assert TRAINED in sync(project, params).completed
    assert curve(project) == LOSSES
    assert curve(project, key="train/clips_per_s")[0] == (10, 50.0)


def test_resumed_training_continues_the_live_run(project):
    send(writer(project), ROWS[:20])
    send(writer(project), ROWS[10:], end="FINISHED")
    assert curve(project) == LOSSES


def test_each_training_gets_its_own_live_run(project):
    send(writer(project), ROWS[:20])
    send(writer(project, salt="other", key="other"), history(TRAINED, STEPS, "other"), end="FINISHED")
    assert len(contents(project).runs[TRAINED]) == 2


def test_live_run_that_contradicts_the_record_is_superseded_not_deleted(project, params):
    send(writer(project), [{**row, "loss": 1.5} for row in ROWS[:5]])
    done = sync(project, params)
    assert TRAINED in done.created
    runs = contents(project).runs[TRAINED]
    assert sorted(run.data.tags.get(LIVE, "") for run in runs) == ["", "superseded"]


def test_live_run_of_other_parameters_is_unchanged(project, params):
    send(writer(project, salt="other", key="other"), history(TRAINED, STEPS, "other")[:5])
    sync(project, params)
    assert sorted(run.data.tags.get(LIVE, "") for run in contents(project).runs[TRAINED]) == ["", "open"]


def test_unreachable_store_is_reported_once_and_gets_all_rows_later(project, monkeypatch, unused_port, capsys):
    one = writer(project)
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
        send(one, ROWS[:10])
        one.not_before = 0
        send(one, ROWS[10:20])
    assert one.failures == 2
    assert capsys.readouterr().err.count("no MLflow server answers") == 1
    one.not_before = 0
    send(one, ROWS[20:], end="FINISHED")
    assert curve(project) == LOSSES


def test_failed_connection_is_not_retried_immediately(project, monkeypatch, unused_port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    one = send(writer(project), ROWS[:10])
    send(one, ROWS[10:])
    assert one.failures == 1


def test_disabled_live_run_starts_no_process(project, monkeypatch):
    monkeypatch.setenv("ALPRO_LIVE", "off")
    monkeypatch.setattr(live_run, "START_AFTER_S", 0)
    monkeypatch.setattr(subprocess, "Popen", None)
    with live(TRAINED, params_of(TRAINED), root=project) as run:
        run.log(ROWS[0])


def test_short_training_starts_no_process(project, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    with live(TRAINED, params_of(TRAINED), root=project) as run:
        for row in ROWS:
            run.log(row)


@pytest.mark.parametrize("program", ["exit 0", "exec sleep 600", "kill -9 $$"])
def test_training_continues_whatever_the_writer_does(project, program, capsys):
    """The writer ends at once, never reads its input, or is killed."""
    started = time.monotonic()
    with live(TRAINED, params_of(TRAINED), root=project) as run:
        run._command, run._start_at = ["/bin/sh", "-c", program], 0
        for row in ROWS * 50:
            run.log(row)
        process = run._process
    assert time.monotonic() - started < 30  # one of the programs sleeps 600 s
    assert process is None or process.poll() is not None
    assert capsys.readouterr().err.count("alpro: live tracking") <= 1


def test_training_is_visible_while_it_runs(project, monkeypatch):
    monkeypatch.setattr(live_run, "START_AFTER_S", 0)
    with live(TRAINED, params_of(TRAINED), root=project) as run:
        for row in ROWS[:30]:
            run.log(row)
        assert select.select([run._process.stdout], [], [], 300)[0], "the writer did not open the store"
        (shown,) = contents(project).runs[TRAINED]
        assert (shown.info.status, shown.data.params["model.width"]) == ("RUNNING", "64")
        for row in ROWS[30:]:
            run.log(row)
    assert contents(project).runs[TRAINED][0].info.status == "FINISHED"
    assert curve(project) == LOSSES


TRAINING = """
import signal
from alpro.tracking import live, live_run
live_run.START_AFTER_S = 0
with live("finetune/msvd_qa", {"stage": "finetune/msvd_qa"}) as run:
    run.log({"step": 1, "split": "train", "loss": 1.0})
    print("going", flush=True)
    signal.pause()
"""


def test_writer_ends_soon_after_a_killed_training(project):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    training = subprocess.Popen(
        [sys.executable, "-c", TRAINING], cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert training.stdout.readline() == b"going\n"
    training.send_signal(signal.SIGKILL)
    started = time.monotonic()
    training.stderr.read()  # blocks until the writer has closed its inherited copy
    assert time.monotonic() - started < 60  # takes 4 s on an idle machine
    training.wait()
    training.stdout.close()
    training.stderr.close()


@pytest.mark.slow
def test_server_killed_during_a_training_loses_no_rows(project, params, empty_store, tmp_path, monkeypatch, unused_port, capfd):
    """A real `mlflow server` is killed during a training; after its restart, a sync adds the missing rows."""
    with_store(tmp_path / "server", empty_store)
    uri = f"http://127.0.0.1:{unused_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(live_run, "START_AFTER_S", 0)
    server = _serve(tmp_path / "server", unused_port)
    try:
        with live(TRAINED, params_of(TRAINED), root=project) as run:
            for row in ROWS[:20]:
                run.log(row)
            assert select.select([run._process.stdout], [], [], 300)[0], "the writer did not reach the server"
            _stop(server)
            started = time.monotonic()
            for row in ROWS[20:]:
                run.log(row)
            assert time.monotonic() - started < 10
        server = _serve(tmp_path / "server", unused_port)
        (half,) = contents(project).runs[TRAINED]
        done = sync(project, params)
        assert TRAINED in done.completed
        (whole,) = contents(project).runs[TRAINED]
        assert whole.info.run_id == half.info.run_id
        assert curve(project) == LOSSES
        listed = contents(project).client.list_artifacts(whole.info.run_id, "plots")
        assert [artifact.path for artifact in listed] == ["plots/curve.png"]
    finally:
        _stop(server)


def _serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    store = folder / ".mlflow" / "mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{store}", "--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    server = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return server
        except OSError:
            select.select([], [], [], 0.2)
    _stop(server)
    raise AssertionError("mlflow server did not start")


def _stop(server: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def test_system_metrics_are_logged_only_if_asked_for(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    one = writer(project)
    one.system_metrics = True
    send(one, ROWS[:20])
    deadline = time.monotonic() + 60
    while not (measured := [key for key in contents(project).runs[TRAINED][0].data.metrics if key.startswith("system/")]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "system/cpu_utilization_percentage" in measured
    send(one, ROWS[20:], end="FINISHED")
    assert curve(project) == LOSSES
    send(writer(project, "pretrain"), ROWS, end="FINISHED")
    assert not [key for key in contents(project).runs["pretrain"][0].data.metrics if key.startswith("system/")]
