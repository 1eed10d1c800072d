"""From the Run button to the registry, in a real browser: what a person sees who presses Run with another learning rate."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import REPOSITORY, commit, run, wait_for

pytestmark = pytest.mark.slow  # the whole pipeline of recipe tiny
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_S = 3600
LEARNING_RATE = "finetune.msvd_qa.learning_rate=0.002"


def missing() -> str | None:
    """What the browser lacks: `npm install playwright-core` somewhere, and NODE_PATH pointing at its node_modules."""
    if CHROMIUM is None:
        return "no Chromium on PATH"
    if shutil.which("node") is None:
        return "no node on PATH"
    known = subprocess.run(["node", "-e", "require('playwright-core')"], capture_output=True)
    return "node finds no playwright-core (NODE_PATH)" if known.returncode else None


def free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str, str]]:
    """A clone with recipe tiny and `make ui` over it: (project, Prefect's address, MLflow's)."""
    if reason := missing():
        pytest.skip(reason)
    root = tmp_path / "project"
    run("git", "clone", "-q", str(REPOSITORY), str(root), cwd=tmp_path)
    run(sys.executable, "-m", "alpro", "recipe", "use", "tiny", cwd=root)
    commit(root, "Recipe tiny")
    prefect, mlflow = free_ports()
    names = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    own = {"PREFECT_PORT": str(prefect), "MLFLOW_PORT": str(mlflow), "PYTHONPATH": str(root), **names}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_TRACKING"))} | own
    with (tmp_path / "ui.log").open("w") as log:
        ui = subprocess.Popen([sys.executable, "tools/ui.py"], cwd=root, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: ui.poll() is not None or "Ctrl-C" in (tmp_path / "ui.log").read_text(), "servers")
        assert ui.poll() is None, (tmp_path / "ui.log").read_text()
        yield root, f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}"
    finally:
        ui.terminate()
        ui.wait()


def test_a_run_started_in_the_pages_ends_in_the_registry(served: tuple[Path, str, str], tmp_path: Path) -> None:
    root, prefect, mlflow = served
    given = {
        "prefect": prefect, "mlflow": mlflow, "out": str(tmp_path), "chromium": CHROMIUM, "overrides": [LEARNING_RATE],
        "tasks": ["msvd_qa"], "model": "alpro-msvd_qa", "patience_s": PATIENCE_S,
    }  # fmt: skip
    script = Path(__file__).with_name("run_button.cjs")
    done = subprocess.run(["node", str(script), json.dumps(given)], capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["state"] == "Completed"
    with urllib.request.urlopen(f"{prefect}/api/flow_runs/{seen['run']}") as answer:
        flow = json.load(answer)
    assert flow["parameters"]["overrides"] == [LEARNING_RATE] and flow["parameters"]["tasks"] == ["msvd_qa"]
    assert any("msvd_qa" in row for row in seen["results"])
    assert seen["versions"] == ["Version 1"]
    with sqlite3.connect(root / ".mlflow" / "mlflow.db") as database:
        tags = dict(database.execute("select key, value from model_version_tags where name = 'alpro-msvd_qa'").fetchall())
    assert tags["alpro.flow"] == f"{flow['name']} {flow['id']}" and tags["alpro.git.clean"] == "yes"
    assert run("git", "status", "--porcelain", cwd=root) == "", "the checkout is as it was"
