"""Runs of `make ui` at the same time: all complete, apart from each other; a killed or cancelled one holds up no other."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import Pages, living_in, pages, run, tiny_project, wait_for
from .test_waiting import ask, start, state

pytestmark = pytest.mark.slow  # the servers, and the stages of one task
RATES = {"one": 0.002, "two": 0.003, "same": 0.002}
LONG = ["finetune.msvd_qa.epochs=2000"]
ENDED = ("Completed", "Failed", "Crashed", "Cancelled")
LIMIT = f"alpro-training-{socket.gethostname()}"


def states(served: Pages, flow: str) -> list[dict[str, Any]]:
    """Return all states that a run has had."""
    return list(ask(served, f"flow_run_states/?flow_run_id={flow}"))


def artifact(served: Pages, flow: str, key: str) -> Any:
    """Return the rows of a run's table."""
    question = {"artifacts": {"flow_run_id": {"any_": [flow]}, "key": {"any_": [key]}}}
    (found,) = ask(served, "artifacts/filter", question)
    return json.loads(found["data"])


def taken(served: Pages) -> int:
    return int(ask(served, f"v2/concurrency_limits/{LIMIT}")["active_slots"])


def trains(served: Pages, flow: str) -> bool:
    if state(served, flow)["name"] in ENDED:
        pytest.fail(f"it ended: {state(served, flow)}")
    lines = ask(served, "logs/filter", {"logs": {"flow_run_id": {"any_": [flow]}}, "sort": "TIMESTAMP_DESC", "limit": 50})
    return any("finetune/msvd_qa: step" in line["message"] for line in lines)


def process_of(root: Path, flow: str) -> int:
    """Return the process of a run."""
    for number in living_in(root):
        words = Path(f"/proc/{number}/cmdline").read_bytes()
        if b"prefect" in words and f"PREFECT__FLOW_RUN_ID={flow}".encode() in Path(f"/proc/{number}/environ").read_bytes():
            return number
    raise AssertionError(f"no process of {flow}")


def test_runs_at_once_complete_with_their_own_experiments_and_versions(tmp_path: Path) -> None:
    root = tmp_path / "project"
    tiny_project(root)
    with pages(root) as served:
        flows = {
            name: start(served, "pipeline", tasks=["msvd_qa"], overrides=[f"finetune.msvd_qa.learning_rate={rate}"])
            for name, rate in RATES.items()
        }
        wait_for(lambda: all(state(served, flow)["name"] in ENDED for flow in flows.values()), "end of all runs")
        assert {state(served, flow)["name"] for flow in flows.values()} == {"Completed"}, served.log.read_text()
        waited = [entry for flow in flows.values() for entry in states(served, flow) if entry["name"] == "Waiting"]
        assert any(entry["message"].startswith("waiting for the training slot of") for entry in waited)
        outcomes = {
            name: {row["stage"]: row["outcome"] for row in artifact(served, flow, "stages")} for name, flow in flows.items()
        }
        assert outcomes["two"]["finetune@msvd_qa"] == "ran"
        assert sorted(outcomes[name]["finetune@msvd_qa"] for name in ("one", "same")) == ["ran", "restored"]
        names = {key: ask(served, f"flow_runs/{flow}")["name"] for key, flow in flows.items()}
        saved = run("git", "for-each-ref", "--format=%(refname:lstrip=4) %(subject)", "refs/exps/", cwd=root).splitlines()
        for key, flow in flows.items():
            (subject,) = [line for line in saved if line.startswith(f"{names[key]} ")]
            assert subject.startswith(f"{names[key]} flow {flow}: ") and f"learning_rate={RATES[key]}" in subject
        with sqlite3.connect(root / ".mlflow" / "mlflow.db") as database:
            versions = database.execute("select version, value from model_version_tags where key = 'alpro.flow'").fetchall()
            parents = database.execute("select distinct run_uuid from tags where key = 'alpro.flow'").fetchall()
        assert len(versions) == len(parents) == 2, "equal results are one version and one parent run"
        assert {flow.split()[0] for _, flow in versions} < set(names.values())
        assert taken(served) == 0 and not [*root.glob(".dvc/tmp/flows/*")]
        assert run("git", "status", "--porcelain", cwd=root) == ""


def test_killed_and_cancelled_runs_leave_the_slot_to_the_next(tmp_path: Path) -> None:
    root = tmp_path / "project"
    tiny_project(root)
    with pages(root) as served:
        flows = [
            start(served, "finetune", task="msvd_qa", overrides=[*LONG, f"finetune.msvd_qa.learning_rate={rate}"])
            for rate in (0.002, 0.003, 0.004)
        ]
        wait_for(lambda: any(trains(served, flow) for flow in flows), "training")
        (first,) = [flow for flow in flows if trains(served, flow)]
        cancelled, last = [flow for flow in flows if flow != first]
        wait_for(lambda: all(state(served, flow)["name"] == "Waiting" for flow in (cancelled, last)), "waiting runs")
        name = ask(served, f"flow_runs/{first}")["name"]
        wait_for(lambda: f"{name} has it for stage-finetune@msvd_qa" in state(served, last)["message"], "name of the holder")
        ask(served, f"flow_runs/{cancelled}/set_state", {"state": {"type": "CANCELLING"}})
        wait_for(lambda: state(served, cancelled)["name"] == "Cancelled", "end of the cancelled run")
        assert taken(served) == 1 and state(served, last)["name"] == "Waiting"
        os.kill(process_of(root, first), signal.SIGKILL)
        killed_s = time.monotonic()
        wait_for(lambda: state(served, first)["name"] == "Crashed", "end of the killed run")
        wait_for(lambda: trains(served, last), "training of the next run")
        print(f"the next run trains {time.monotonic() - killed_s:.0f} s after the kill")
        ask(served, f"flow_runs/{last}/set_state", {"state": {"type": "CANCELLING"}})
        wait_for(lambda: state(served, last)["name"] == "Cancelled", "end of the last run")
        wait_for(lambda: taken(served) == 0, "free slot")
        assert not [*root.glob(".dvc/tmp/flows/*")], "worktrees are gone, also that of the killed run"
        served.end(signal.SIGTERM)
