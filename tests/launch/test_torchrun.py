"""Backend torch: ranks started by `alpro launch` on several hosts, and by torchrun and srun without the launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alpro.config import Launch
from alpro.launch.command import world_command
from alpro.launch.torchrun import Slot, assign
from tests.launch import cluster
from tests.training.processes import ROOT

COLLECTIVES = ["-m", "tests.distributed.collectives_world"]


@pytest.mark.parametrize(
    "options",
    [
        {"processes": 2, "min_processes": 1, "hosts": "localhost:2"},
        {"processes": 2, "max_processes": 4},
        {"processes": 2, "discovery": "hosts.sh"},
    ],
)
def test_elastic_runs_need_horovod(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"launch\.\w+: elastic runs need launch.backend=horovod"):
        Launch(backend="torch", **options)  # type: ignore[arg-type]


def test_command_has_the_options_for_hosts() -> None:
    settings = Launch(backend="torch", processes=3, hosts="one:2,two:2", ssh_port=2222, ssh_identity="id")
    starter = [sys.executable, "-m", "alpro.launch.torchrun", "-np", "3"]
    options = ["--ssh-port", "2222", "--ssh-identity-file", "id", "-H", "one:2,two:2"]
    assert world_command(settings, ["train"]) == [*starter, *options, "train"]


def test_ranks_fill_the_hosts_in_order() -> None:
    assert assign("a:2,b:1,c:4", 4) == [Slot(0, "a", 0, 2), Slot(1, "a", 1, 2), Slot(2, "b", 0, 1), Slot(3, "c", 0, 1)]
    with pytest.raises(SystemExit, match=r"launch\.hosts has 3 slots, but launch.processes is 4"):
        assign("a:2,b:1", 4)


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **variables}


def slurm_step(size: int, command: list[str]) -> list[subprocess.Popen[str]]:
    """Start the processes of a step on this machine, with the variables that srun gives them."""
    step = {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(size), "SLURM_NODEID": "0",
        "SLURM_STEP_TASKS_PER_NODE": str(size), "SLURM_STEP_NODELIST": "localhost",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment(**step, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)),
        )
        for rank in range(size)
    ]  # fmt: skip


@pytest.mark.slow
def test_torchrun_may_start_the_ranks(tmp_path: Path) -> None:
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *starter, *COLLECTIVES, str(tmp_path / "out.json")]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, timeout=600)
    assert [rank[1:] for rank in json.loads((tmp_path / "out.json").read_text())] == [[0, 0, 2], [1, 1, 2]]


@pytest.mark.slow
def test_srun_may_start_the_ranks(tmp_path: Path) -> None:
    for process in slurm_step(3, [*COLLECTIVES, str(tmp_path / "out.json")]):
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
    assert [rank[1:] for rank in json.loads((tmp_path / "out.json").read_text())] == [[0, 0, 3], [1, 1, 3], [2, 2, 3]]


FAILS_DURING_AN_EXCHANGE = """
import sys, time, torch
from pathlib import Path
from alpro import distributed
distributed.init()
if distributed.rank() == 1:
    pending = distributed.start_all_reduce(torch.zeros(1000))
    raise ValueError("a fault on one rank")
while not Path(sys.argv[1]).exists():
    time.sleep(0.05)
distributed.all_reduce(torch.zeros(1000))
"""


@pytest.mark.slow
def test_rank_that_fails_during_an_exchange_ends_at_once_and_the_others_notice(tmp_path: Path) -> None:
    """Gloo would wait for the others before the process can end, and they wait for it."""
    waiting, failing = slurm_step(2, ["-c", FAILS_DURING_AN_EXCHANGE, str(tmp_path / "go")])
    try:
        output, _ = failing.communicate(timeout=300)
        assert "ValueError: a fault on one rank" in output and waiting.poll() is None
        (tmp_path / "go").touch()
        output, _ = waiting.communicate(timeout=300)
        assert "LostRankError: an exchange with the other ranks failed: Connection closed by peer" in output
    finally:
        for process in (waiting, failing):
            process.kill()


@pytest.mark.slow
def test_ranks_of_several_hosts_meet_over_the_network(tmp_path: Path) -> None:
    if reason := cluster.missing():
        pytest.skip(reason)
    settings = {
        "backend": "torch", "processes": 4, "hosts": "ha:2,hb:2", "ssh_port": cluster.PORT,
        "ssh_identity": str(tmp_path / "hosts" / "key"), "start_timeout_s": 300,
    }  # fmt: skip
    code = (
        "import sys; from alpro.config import Launch; from alpro.launch.run import run_world; "
        f"run_world(Launch(**{settings!r}), [sys.executable, *sys.argv[1:]])"
    )
    with cluster.Cluster(tmp_path / "hosts", {"ha": ("eth0",), "hb": ("eth0",)}) as hosts:
        command = hosts.launcher.command(sys.executable, "-c", code, *COLLECTIVES, str(tmp_path / "out.json"))
        run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
        assert run.returncode == 0, run.stdout + run.stderr
        ranks = json.loads((tmp_path / "out.json").read_text())
        assert [rank[1:] for rank in ranks] == [[0, 0, 2], [1, 1, 2], [2, 0, 2], [3, 1, 2]]
        unreachable = code.replace("hb:2", "hl:2").replace(str(cluster.PORT), "9").replace("ha:2", "hb:2")
        refused = subprocess.run(
            hosts.launcher.command(sys.executable, "-c", unreachable, "-c", "pass"), cwd=ROOT, env=environment(),
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert refused.returncode == 1 and "ssh to hb failed: ssh: connect to host hb port 9" in refused.stderr
