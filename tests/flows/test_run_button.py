"""From the Run button to the registry, in a real browser: a run with another learning rate."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, missing

from .conftest import Pages, pages, run, tiny_project

pytestmark = pytest.mark.slow  # the servers, and the stages of one task
PATIENCE_S = 3600
LEARNING_RATE = "finetune.msvd_qa.learning_rate=0.002"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Pages]:
    """A clone with recipe tiny, fine-tuning from scratch, and `make ui` over it."""
    if reason := missing():
        pytest.skip(reason)
    root = tmp_path / "project"
    tiny_project(root)
    with pages(root) as started:
        yield started


def test_run_started_in_the_pages_registers_its_model(served: Pages, tmp_path: Path) -> None:
    given = {
        "prefect": served.prefect, "mlflow": served.mlflow, "out": str(tmp_path), "chromium": CHROMIUM,
        "overrides": [LEARNING_RATE], "tasks": ["msvd_qa"], "model": "alpro-msvd_qa", "patience_s": PATIENCE_S,
    }  # fmt: skip
    script = Path(__file__).with_name("run_button.cjs")
    done = subprocess.run(["node", str(script), json.dumps(given)], capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["state"] == "Completed", served.log.read_text()
    with urllib.request.urlopen(f"{served.prefect}/api/flow_runs/{seen['run']}") as answer:
        flow = json.load(answer)
    assert flow["parameters"]["overrides"] == [LEARNING_RATE] and flow["parameters"]["tasks"] == ["msvd_qa"]
    cells = {cell.strip() for row in seen["results"] for cell in row.split("\t")}
    assert {"msvd_qa", "overall_acc", "n"} <= cells
    assert seen["versions"] == ["Version 1"]
    with sqlite3.connect(served.root / ".mlflow" / "mlflow.db") as database:
        tags = dict(database.execute("select key, value from model_version_tags where name = 'alpro-msvd_qa'").fetchall())
    assert tags["alpro.flow"] == f"{flow['name']} {flow['id']}" and tags["alpro.git.clean"] == "yes"
    assert run("git", "status", "--porcelain", cwd=served.root) == "", "the checkout is as it was"
    served.end(signal.SIGTERM)
