"""The whole pipeline with recipe `tiny`, in separate clones: two runs, a killed run and a flow give the same bytes.

Every clone starts with an empty DVC cache, so every counted stage really ran. `dvc.lock` holds the hash of every
stage's inputs and outputs, checkpoints and metrics included: equal locks are equal results.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import psutil
import pytest
import yaml

from alpro.config import load

from .browser import CHROMIUM, missing
from .test_stage_dependencies import examples

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]
LOCK = "dvc.lock"
RAN = re.compile(r"^Running stage '([^']+)'", re.MULTILINE)
TASKS = ("msrvtt_ret", "didemo_ret", "msrvtt_qa", "msvd_qa")
STAGES = {
    *("sample", "text", "entities", "prompter", "pretrain", "report"),
    *(f"{stage}@{task}" for stage in ("validate", "finetune", "evaluate") for task in TASKS),
    *(f"validate_corpus@{corpus}" for corpus in ("webvid2m", "cc3m")),
    *(f"zeroshot@{task}" for task in ("msrvtt_ret", "didemo_ret")),
}


class Clone:
    """A clone of this repository, with recipe tiny as params.yaml, its own cache, and the tests' environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(root)], check=True)
        (root / ".venv").symlink_to(Path(sys.prefix))
        shutil.copy(root / "recipes" / "tiny.yaml", root / "params.yaml")
        for name, value in (("user.name", "A tester"), ("user.email", "tester@localhost")):
            subprocess.run(["git", "config", name, value], cwd=root, check=True)
        subprocess.run(["git", "commit", "--quiet", "--all", "-m", "Recipe tiny"], cwd=root, check=True)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a program in the clone, with stdout and stderr combined."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_ROOT", "PREFECT_"))
        }
        return subprocess.Popen(
            [str(self.root / ".venv" / "bin" / command[0]), *command[1:]],
            cwd=self.root,
            env=environment | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str) -> str:
        """Run a program, check that it succeeds, and return its output."""
        process = self.start(*command)
        output, _ = process.communicate(timeout=3600)
        assert process.returncode == 0, output[-4000:]
        return output

    def lock(self) -> dict[str, dict[str, object]]:
        """Return the content of the lock file."""
        return yaml.safe_load((self.root / LOCK).read_text())

    def metrics(self) -> dict[str, object]:
        """Return the metrics of the report."""
        return json.loads((self.root / "reports" / "summary.json").read_text())

    def processes(self) -> list[str]:
        """Return the processes that still run in the clone."""
        found = []
        for process in psutil.process_iter(["cwd", "cmdline", "status"]):
            if process.info["cwd"] == str(self.root) and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.info["cmdline"] or []))
        return found


def ran(output: str) -> list[str]:
    return RAN.findall(output)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("clones")


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Clone:
    clone = Clone(folder / "undisturbed")
    stages = ran(clone.run("dvc", "repro"))
    assert set(stages) == STAGES and len(stages) == len(STAGES)
    return clone


def same(one: Clone, other: Clone) -> None:
    assert one.metrics() == other.metrics()
    assert one.lock() == other.lock()


def test_second_repro_runs_nothing(undisturbed: Clone) -> None:
    assert ran(undisturbed.run("dvc", "repro")) == []
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=undisturbed.root, capture_output=True, text=True, check=True)
    assert [line[3:] for line in changed.stdout.splitlines()] == [LOCK]


def test_run_resumes_to_the_same_bytes_after_its_launcher_is_killed(undisturbed: Clone, folder: Path) -> None:
    clone = Clone(folder / "killed")
    stages: list[str] = []
    for sign in ("pretrain: step", "finetune/msvd_qa: step"):
        process = clone.start("dvc", "repro")
        output = ""
        assert process.stdout is not None
        for line in process.stdout:
            output += line
            if line.startswith(sign):
                break
        (launcher,) = (
            p for p in psutil.Process(process.pid).children(recursive=True) if p.cmdline()[1:4] == ["-m", "alpro", "stage"]
        )
        launcher.send_signal(signal.SIGKILL)
        output += process.communicate(timeout=60)[0]
        assert process.returncode != 0
        deadline = time.monotonic() + 20
        while clone.processes() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert clone.processes() == []
        stages += ran(output)
    last = clone.run("dvc", "repro")
    assert set(stages + ran(last)) == STAGES
    assert {"finetune@msvd_qa", "report"} <= set(ran(last)) and "pretrain" not in ran(last)
    same(undisturbed, clone)


def test_a_comment_repeats_only_the_stages_that_use_its_module(undisturbed: Clone) -> None:
    kinds = {name.partition("@")[0] for name in STAGES}
    for file, stages in examples().items():
        path = undisturbed.root / file
        before = path.read_bytes()
        path.write_bytes(before + b"# a comment\n")
        shown = json.loads(undisturbed.run("dvc", "status", "--json"))
        path.write_bytes(before)
        assert {name.partition("@")[0] for name in shown} == kinds.intersection(stages), file


def test_sweep_over_seeds_is_queued_run_and_summarised(undisturbed: Clone) -> None:
    for words in (("add", "dvc.lock"), ("commit", "--quiet", "-m", "Results")):
        subprocess.run(["git", *words], cwd=undisturbed.root, check=True)
    undisturbed.run("dvc", "exp", "run", "--queue", "-n", "sweep", "-S", "seed=1,2", "pretrain")
    undisturbed.run("dvc", "exp", "run", "--run-all")
    (group,) = json.loads(undisturbed.run("python", "-m", "alpro", "report", "spread", "sweep", "--json"))
    assert (group["settings"], group["seeds"]) == ({}, [1, 2])
    pretrain = group["metrics"]["pretrain"]
    assert pretrain["n"] == 2 and pretrain["stdev"] > 0


def test_flow_gives_the_same_bytes(undisturbed: Clone, folder: Path) -> None:
    clone = Clone(folder / "flow")
    clone.run("python", "-m", "flows.pipeline", "--in-checkout")
    same(undisturbed, clone)


@pytest.mark.parametrize("task", ["msvd_qa", "msrvtt_ret"])
def test_changed_learning_rate_reruns_only_its_fine_tuning_and_later_stages(undisturbed: Clone, task: str) -> None:
    output = undisturbed.run("dvc", "exp", "run", "-S", f"finetune.{task}.learning_rate=0.0005")
    assert sorted(ran(output)) == [f"evaluate@{task}", f"finetune@{task}", "report"]
    subprocess.run(["git", "checkout", "--quiet", "params.yaml"], cwd=undisturbed.root, check=True)


def test_fine_tuning_from_a_checkpoint_skips_prompter_and_pre_training(undisturbed: Clone, folder: Path) -> None:
    clone = Clone(folder / "given")
    shutil.copytree(undisturbed.root / load(undisturbed.root / "params.yaml").init.finetune, clone.root / "given")
    clone.run("dvc", "exp", "run", "-S", "init.finetune=given", "report")
    assert not {"prompter", "pretrain", "entities"} & set(clone.lock()["stages"])
    assert {"msrvtt_ret", "msvd_qa"} <= set(clone.metrics())


def test_deleted_store_is_restored_by_a_sync(undisturbed: Clone) -> None:
    def status() -> str:
        return undisturbed.run("python", "-m", "alpro", "track", "status").splitlines()[-1]

    undisturbed.run("python", "-m", "alpro", "track", "sync")
    assert status() == "complete"
    shutil.rmtree(undisturbed.root / ".mlflow")
    assert status() != "complete"
    undisturbed.run("python", "-m", "alpro", "track", "sync")
    assert status() == "complete"


def test_mlflow_pages_show_runs_curves_and_models(undisturbed: Clone, tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    undisturbed.run("python", "-m", "alpro", "track", "sync")
    store = f"sqlite:///{undisturbed.root}/.mlflow/mlflow.db"
    client = mlflow.MlflowClient(store)
    (experiment,) = (e for e in client.search_experiments() if e.name != "Default")
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    (parent,) = (run for run in runs.values() if "mlflow.parentRunId" not in run.data.tags)
    children = {run.data.tags["mlflow.runName"]: run for run in runs.values() if run is not parent}
    trained = {"prompter", "pretrain", *(f"finetune/{task}" for task in TASKS)}
    assert trained | {f"evaluate/{task}" for task in TASKS} <= set(children)
    models = {model.name for model in client.search_registered_models()}
    assert models == {"alpro-prompter", "alpro-pretrain", *(f"alpro-{task}" for task in TASKS)}
    for name in trained:
        run = children[name]
        points = [len(client.get_metric_history(run.info.run_id, key)) for key in run.data.metrics if key.startswith("val/")]
        assert points and min(points) > 1, f"{name} has no curves"  # recipe tiny logs a single training point

    curves = children["pretrain"].info.run_id
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    page = f"http://127.0.0.1:{port}/#"
    runs_page = f"{page}/experiments/{experiment.experiment_id}/runs"
    server = undisturbed.start("mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", store)
    try:
        wait_for_port(port)
        given = {
            "chromium": CHROMIUM,
            "out": str(tmp_path),
            "patience_s": 60,
            "pages": [
                {"name": "runs", "url": runs_page, "texts": [parent.data.tags["mlflow.runName"]]},
                {"name": "parent", "url": f"{runs_page}/{parent.info.run_id}", "texts": ["alpro.pipeline", "finetune/msvd_qa"]},
                {"name": "curves", "url": f"{runs_page}/{curves}/model-metrics", "texts": ["loss", "mlm", "vtm"]},
                {"name": "models", "url": f"{page}/models", "texts": sorted(models)},
            ],
        }
        script = Path(__file__).with_name("pages.cjs")
        done = subprocess.run(["node", str(script), json.dumps(given)], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        print(f"pictures in {tmp_path}")
    finally:
        server.terminate()
        server.communicate(timeout=60)


def wait_for_port(port: int, patience_s: float = 120) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError(f"nothing listens on port {port} after {patience_s} s")
