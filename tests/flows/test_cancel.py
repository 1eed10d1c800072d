"""A deployment's run that is cancelled during Horovod training leaves nothing, and the next run completes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from flows.run_lock import only_run

from .conftest import Pages, living_in, pages, run, tiny_project, wait_for

pytestmark = pytest.mark.slow  # the servers, and the stages of one task
LONG = "finetune.msvd_qa.epochs=2000"
SHORT = "finetune.msvd_qa.learning_rate=0.002"


def ask(served: Pages, path: str, question: dict[str, Any] | None = None) -> Any:
    data = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(f"{served.prefect}/api/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def prefect(served: Pages, *words: str) -> str:
    """Run Prefect's own command line."""
    environment = {**os.environ, "PREFECT_API_URL": f"{served.prefect}/api"}
    command = [str(Path(sys.executable).with_name("prefect")), *words]
    done = subprocess.run(command, env=environment, cwd=served.root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start(served: Pages, override: str) -> str:
    """Start the pipeline for one task; returns the id of its run."""
    prefect(served, "deployment", "run", "pipeline/pipeline", "-p", 'tasks=["msvd_qa"]', "-p", f'overrides=["{override}"]')
    return str(ask(served, "flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})[0]["id"])


def state(served: Pages, flow: str) -> str:
    return str(ask(served, f"flow_runs/{flow}")["state_name"])


def commands(root: Path) -> list[str]:
    """Return the command lines of the processes below root."""
    found = []
    for number in living_in(root):
        try:
            found.append(Path(f"/proc/{number}/cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def trains(served: Pages, flow: str) -> bool:
    lines = ask(served, "logs/filter", {"logs": {"flow_run_id": {"any_": [flow]}}, "sort": "TIMESTAMP_DESC", "limit": 50})
    return any("finetune/msvd_qa: step" in line["message"] for line in lines)


def test_cancelled_training_leaves_nothing_and_the_next_run_completes(tmp_path: Path) -> None:
    root = tmp_path / "project"
    tiny_project(root)
    with pages(root) as served:
        cancelled = start(served, LONG)
        wait_for(lambda: trains(served, cancelled) or state(served, cancelled) in ("Failed", "Crashed"), "training")
        assert sum("alpro train finetune" in command and "horovodrun" not in command for command in commands(root)) >= 2
        prefect(served, "flow-run", "cancel", cancelled)
        began_s = time.monotonic()
        wait_for(lambda: not any("alpro train" in command for command in commands(root)), "end of the training")
        gone_s = time.monotonic() - began_s
        wait_for(lambda: state(served, cancelled) not in ("Running", "Cancelling"), "end of the run")
        print(f"no process after {gone_s:.0f} s, {state(served, cancelled)} after {time.monotonic() - began_s:.0f} s")
        assert state(served, cancelled) == "Cancelled"
        assert not [*root.glob(".dvc/tmp/flows/*")], "its worktree is gone"
        with only_run(root, "another run"):
            pass
        after = start(served, SHORT)
        wait_for(lambda: state(served, after) in ("Completed", "Failed", "Crashed"), "end of the next run")
        assert state(served, after) == "Completed", served.log.read_text()
        assert run("git", "status", "--porcelain", cwd=root) == ""
        served.end(signal.SIGTERM)
