"""In a Slurm allocation the hosts come from Slurm, unless params.yaml names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpro.config import Launch
from alpro.errors import LaunchError
from alpro.launch import slurm
from alpro.launch.command import torchrun
from alpro.launch.ssh import reach


@pytest.fixture(autouse=True)
def allocation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An allocation of two nodes with two tasks each, and a `scontrol` that knows their names."""
    program = tmp_path / "scontrol"
    program.write_text('#!/bin/sh\ntest "$*" = "show hostnames node[1-2]" && printf "node1\\nnode2\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in ("SLURM_GPUS_PER_NODE", "SLURM_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("JOB_ID", "7"), ("JOB_NODELIST", "node[1-2]"), ("TASKS_PER_NODE", "2(x2)")):
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_hosts_and_processes_are_those_of_the_allocation() -> None:
    settings = slurm.with_allocation(Launch(processes=None, threads=3))
    assert (settings.hosts, settings.processes, settings.threads) == ("node1:2,node2:2", 4, 3)
    assert settings.remote_shell == "srun" and "--remote-shell srun" in " ".join(torchrun(settings))
    assert slurm.with_allocation(Launch(processes=3)).processes == 3


@pytest.mark.parametrize("settings", [Launch(processes=1), Launch(processes=2, hosts="a:1,b:1")])
def test_one_process_or_given_hosts_stay_as_they_are(settings: Launch) -> None:
    assert slurm.with_allocation(settings) is settings


def test_outside_of_an_allocation_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_NODELIST")
    settings = Launch(processes=None)
    assert slurm.with_allocation(settings) is settings


@pytest.mark.parametrize(
    ("variables", "slots"),
    [
        ({"SLURM_GPUS_PER_NODE": "4"}, [4, 4]),
        ({"SLURM_GPUS_PER_NODE": "a100:4"}, [4, 4]),
        ({"SLURM_GPUS_PER_NODE": "a100:2,v100:1"}, [3, 3]),
        ({"SLURM_GPUS": "8"}, [4, 4]),
        ({"SLURM_GPUS_ON_NODE": "8", "SLURM_TASKS_PER_NODE": "1(x2)"}, [8, 8]),
        ({"SLURM_TASKS_PER_NODE": "2,1"}, [2, 1]),
        ({}, [1, 1]),
    ],
)
def test_a_node_gets_a_process_per_gpu_or_task(variables: dict[str, str], slots: list[int]) -> None:
    assert slurm.slots_of(variables, 2) == slots


def test_an_allocation_that_is_too_small_is_refused() -> None:
    with pytest.raises(
        LaunchError, match=r"launch.processes is 8, but job 7 has room for 4 \(2, 2 on node\[1-2\]\); ask Slurm"
    ):
        slurm.with_allocation(Launch(processes=8))


def test_several_launchers_in_one_step_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(LaunchError, match="`srun` started `alpro launch` several times"):
        slurm.with_allocation(Launch(processes=None))


def test_srun_starts_one_process_on_one_node_beside_others() -> None:
    words = reach("srun").command("node2", "exec run '$x'", 10)
    place = ["--overlap", "--nodes=1", "--ntasks=1", "--nodelist=node2", "--cpu-bind=none", "--immediate=10"]
    assert words == ["srun", "--quiet", *place, "sh", "-c", "exec run '$x'"]


def test_slurm_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "other[1-2]")
    with pytest.raises(LaunchError, match=r"SLURM_JOB_NODELIST=other\[1-2\]: `scontrol show hostnames other\[1-2\]` fails"):
        slurm.with_allocation(Launch(processes=None))
