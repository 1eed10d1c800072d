"""A process pool away from the checkout: a worker in an empty folder clones, fetches, trains, and pushes what it made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import DVC, REPOSITORY, Pages, apply_experiment, commit, living_in, pages, run, tiny_project, wait_for
from .test_cancel import ask, commands, state, trains

pytestmark = pytest.mark.slow  # the servers, and the stages of one task
POOL = "elsewhere"
ENDS = ("Completed", "NotPushed", "Failed", "Crashed", "Cancelled")
LEARNING_RATE = "finetune.msvd_qa.learning_rate=0.002"
LONG = "finetune.msvd_qa.epochs=2000"


@dataclass(frozen=True)
class Place:
    """The servers, both remotes, and the folder of the worker's machine."""

    served: Pages
    origin: Path
    machine: Path

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "PYTHONPATH", "ALPRO_"))}
        return {**kept, "PREFECT_API_URL": f"{self.served.prefect}/api", **variables}

    def deploy(self, pool: str, kind: str) -> None:
        words = ["--pool", pool, "--type", kind, "--repository", f"file://{self.origin}"]
        command = [sys.executable, "-m", "flows.deploy", *words]
        environment = self.environment(PYTHONPATH=str(REPOSITORY))
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"pipeline/pipeline-{pool}" in done.stdout.splitlines()

    def start(self, flow: str, pool: str, **parameters: Any) -> str:
        """Start a flow as the Run button does; returns the id of its run."""
        found = ask(self.served, f"deployments/name/{flow}/{flow}-{pool}")
        return str(ask(self.served, f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"])

    def machine_environment(self, **variables: str) -> dict[str, str]:
        """Return the variables of the worker's machine, which has its own folders."""
        for name in ("empty", "tmp", "home"):
            (self.machine / name).mkdir(parents=True, exist_ok=True)
        return self.environment(
            MLFLOW_TRACKING_URI=self.served.mlflow,
            HOME=str(self.machine / "home"),
            TMPDIR=str(self.machine / "tmp"),
            ALPRO_POOL_FOLDER=str(self.machine / "pool"),
            **variables,
        )

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker in an empty folder."""
        environment = self.machine_environment()
        command = [str(Path(sys.executable).with_name("prefect")), "worker", "start", "--pool", POOL]
        with (self.machine / "worker.log").open("a") as log:
            process = subprocess.Popen(command, cwd=self.machine / "empty", env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()

    def wait(self, flow: str) -> str:
        wait_for(lambda: state(self.served, flow) in ENDS, "end of the run")
        return state(self.served, flow)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    tmp_path = tmp_path_factory.mktemp("pool")
    project, origin = tmp_path / "project", tmp_path / "origin.git"
    tiny_project(project)
    run(DVC, "remote", "add", "-q", "-d", "store", str(tmp_path / "store"), cwd=project)
    commit(project, "DVC's remote")
    run("git", "clone", "-q", "--bare", str(project), str(origin), cwd=tmp_path)
    with pages(project) as served:
        yield Place(served, origin, tmp_path / "machine")


def mlflow(served: Pages, path: str, question: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{served.mlflow}/api/2.0/mlflow/{path}", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_run_of_another_machine_arrives_and_a_killed_worker_leaves_nothing(place: Place, tmp_path: Path) -> None:
    place.deploy(POOL, "process")
    with place.worker() as worker:
        flow = place.start("pipeline", POOL, tasks=["msvd_qa"], overrides=[LEARNING_RATE])
        assert place.wait(flow) == "Completed", (place.machine / "worker.log").read_text()
        name = ask(place.served, f"flow_runs/{flow}")["name"]

        # the experiment and its outputs, in a clone of somebody else
        other = tmp_path / "other"
        run("git", "clone", "-q", f"file://{place.origin}", str(other), cwd=tmp_path)
        assert name in run(DVC, "exp", "list", "origin", cwd=other)
        run(DVC, "exp", "pull", "-q", "origin", name, cwd=other)
        apply_experiment(name, other)
        run(DVC, "pull", "-q", "finetune@msvd_qa", "evaluate@msvd_qa", cwd=other)
        assert [*(other / "models" / "tiny" / "finetune" / "msvd_qa").glob("*.safetensors")]
        assert "learning_rate: 0.002" in (other / "params.yaml").read_text()

        # the runs and the model, in MLflow
        experiment = mlflow(place.served, "experiments/search", {"max_results": 10, "filter": "name = 'alpro'"})
        runs = mlflow(place.served, "runs/search", {"experiment_ids": [experiment["experiments"][0]["experiment_id"]]})["runs"]
        tags = [{tag["key"]: tag["value"] for tag in one["data"]["tags"]} for one in runs]
        assert any(tag.get("mlflow.runName", "").startswith("finetune/msvd_qa") for tag in tags)
        with urllib.request.urlopen(f"{place.served.mlflow}/api/2.0/mlflow/model-versions/search") as answer:
            assert json.load(answer)["model_versions"][0]["name"] == "alpro-msvd_qa"

        # nothing is left of the clone, and the worker's folder is as empty as it was
        wait_for(lambda: not [*(place.machine / "tmp").glob("*prefect*/*")], "end of the clone")
        assert not [*(place.machine / "empty").iterdir()]

        long = place.start("pipeline", POOL, tasks=["msvd_qa"], overrides=[LONG])
        wait_for(lambda: trains(place.served, long) or state(place.served, long) in ENDS, "training")
        assert any("alpro train finetune" in command for command in commands(place.machine))
        worker.kill()
        wait_for(lambda: not living_in(place.machine), "end of all its processes")
        wait_for(lambda: state(place.served, long) == "Crashed", "state Crashed")


def test_command_of_a_container_runs_a_flow(place: Place) -> None:
    """As the image does: with the deployment's command and variables, in a folder of its own."""
    place.deploy("boxes", "docker")
    flow = place.start("validate", "boxes")
    variables = ask(place.served, "deployments/name/validate/validate-boxes")["job_variables"]
    python, *words = variables["command"].split()
    assert python == "/home/alpro/work/.venv/bin/python"
    environment = place.machine_environment(**variables["env"], PREFECT__FLOW_RUN_ID=flow)
    done = subprocess.run(
        [sys.executable, *words], cwd=place.machine / "empty", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and state(place.served, flow) == "Completed", done.stdout + done.stderr
    assert not [*(place.machine / "empty").iterdir()]
