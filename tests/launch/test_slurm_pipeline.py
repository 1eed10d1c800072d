"""The whole pipeline of recipe tiny on a real Slurm of three nodes: a job for each stage, and started from Prefect.

`pytest -s -m slow tests/launch/test_slurm_pipeline.py` as root prints the stages and times.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flows.conftest import DVC, commit, run
from tests.launch.cluster import Cluster, missing
from tests.launch.slurm_cluster import missing_slurm, start_slurm
from tests.launch.test_cluster import OTHER_NAMES, output_of
from tests.launch.test_slurm_jobs import ENDED_S, Slurm
from tests.training.processes import ROOT, needs_horovod

pytestmark = [pytest.mark.slow, needs_horovod]
BIN = Path(sys.executable).parent
PATIENCE_S = 900
TWO_NODES = {"partition": None, "time": None, "nodes": 2, "gpus_per_node": None, "account": None, "constraint": None}
API = "http://127.0.0.1:4200/api"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if reason := missing() or missing_slurm():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    with Cluster(folder / "cluster", OTHER_NAMES) as cluster:
        for name in OTHER_NAMES:
            cluster.stop_sshd(name)
        yield Slurm(cluster, start_slurm(cluster), folder)


def clone(folder: Path, finetune: str | None = None, **launch: Any) -> Path:
    """Clone this repository with recipe tiny, without results and with an empty DVC cache.

    `finetune` is the checkpoint from which fine-tuning starts, instead of that of pre-training.
    """
    root = folder / "project"
    run("git", "clone", "-q", str(ROOT), str(root), cwd=folder)
    run(sys.executable, "-m", "alpro", "recipe", "use", "tiny", cwd=root)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["launch"] |= launch
    params["init"]["finetune"] = finetune or params["init"]["finetune"]
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    (root / "dvc.lock").unlink(missing_ok=True)
    commit(root, "Recipe tiny")
    assert not (root / ".dvc" / "cache").exists()
    return root


def environment(root: Path) -> dict[str, str]:
    who = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(root), "ALPRO_LIVE": "on", **who}


def repro(nodes: Slurm, root: Path) -> tuple[list[str], str]:
    """Run `dvc repro` on the login node; return the stages that ran, and the output."""
    began_s = time.monotonic()
    command = ["env", "-C", str(root), DVC, "repro"]
    code, output = output_of(nodes.cluster.start(command, **environment(root), **nodes.variables), 7200)
    assert code == 0, output
    stages = re.findall(r"(?m)^Running stage '(\S+)'", output)
    print(f"{len(stages)} stages ran in {time.monotonic() - began_s:.0f} s")
    return stages, output


def outputs(root: Path) -> dict[str, str]:
    """Return the digests of all outputs, from dvc.lock."""
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    found = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}
    assert "models/tiny/finetune/msvd_qa" in found
    return found


def wait_for(condition: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
    until_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until_s, f"no {what} within {within_s} s"
        time.sleep(0.3)


@dataclass(frozen=True)
class Without:
    """A run without Slurm, of two processes."""

    root: Path
    stages: list[str]
    outputs: dict[str, str]


@pytest.fixture(scope="module")
def without(nodes: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Without:
    root = clone(tmp_path_factory.mktemp("without"))
    stages, _ = repro(nodes, root)
    return Without(root, stages, outputs(root))


def test_a_job_for_each_stage_gives_the_outputs_of_a_run_without(nodes: Slurm, without: Without, tmp_path: Path) -> None:
    root = clone(tmp_path, scheduler="slurm", slurm=TWO_NODES)
    stages, output = repro(nodes, root)
    jobs = re.findall(r"alpro launch: Slurm job (\d+) runs on (\S+)", output)
    print(f"{len(jobs)} jobs: {jobs}")
    assert len(jobs) >= 10 and sorted(stages) == sorted(without.stages)
    assert outputs(root) == without.outputs
    assert nodes.wait_until_empty() < ENDED_S
    assert "up to date" in run("env", f"PATH={environment(root)['PATH']}", DVC, "status", cwd=root)


def test_a_flow_run_that_prefect_cancels_leaves_nothing_in_the_queue(nodes: Slurm, tmp_path: Path) -> None:
    root = clone(tmp_path, "recipes/init/scratch.yaml", scheduler="slurm", slurm=TWO_NODES)
    log = tmp_path / "ui.log"
    command = ["sh", "-c", 'cd "$0" && exec "$@" > ../ui.log 2>&1', str(root), sys.executable, "-m", "flows.ui"]
    own = {name: value for name, value in environment(root).items() if name != "ALPRO_LIVE"}
    ui = nodes.cluster.start(command, **own, **nodes.variables, PREFECT_PORT="4200", MLFLOW_PORT="5000")
    try:
        wait_for(lambda: ui.poll() is not None or (log.exists() and "Ctrl-C" in log.read_text()), "servers")
        assert ui.poll() is None, log.read_text()
        long = 'overrides=["finetune.msvd_qa.epochs=2000"]'
        started = prefect(nodes, "deployment", "run", "pipeline/pipeline", "-p", 'tasks=["msvd_qa"]', "-p", long)
        flow = next(iter(re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", started)))
        wait_for(lambda: is_training(root), "training")
        assert len([line for line in nodes.ranks() if "alpro train finetune" in line]) >= 2
        prefect(nodes, "flow-run", "cancel", flow)
        took_s = nodes.wait_until_empty(200)
        print(f"nothing left in the queue, and no process, {took_s:.1f} s after the run was cancelled")
        wait_for(lambda: "CANCELLED" in prefect(nodes, "flow-run", "inspect", flow), "end of the run", 60)
    finally:
        nodes.cluster.launcher.run("pkill", "-TERM", "-f", "flows.ui")  # in the process numbers of that host
        code = ui.wait(120)
    assert code == 0, log.read_text()
    assert run("git", "status", "--porcelain", cwd=root) == ""


def prefect(nodes: Slurm, *words: str) -> str:
    """Run Prefect's own command line on the login node."""
    return nodes.cluster.launcher.run("env", f"PREFECT_API_URL={API}", str(BIN / "prefect"), *words)


def is_training(root: Path) -> bool:
    """Return True if a job of a flow run has printed a step of its training."""
    logs = [path for folder in (root, *root.glob(".dvc/tmp/flows/*")) for path in folder.glob(".state/slurm/*/stdout")]
    return any("finetune/msvd_qa: step" in path.read_text() for path in logs)
