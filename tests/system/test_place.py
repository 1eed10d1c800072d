"""A process's place in a world is read from the environment of horovodrun, torchrun or srun, and from no other."""

from __future__ import annotations

import os

import pytest

from alpro.system import place
from alpro.system.place import Place

TORCH = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
MASTER = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "5", "SLURM_JOB_ID": "77"}
STEP = BATCH_SCRIPT | {
    "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_STEP_NODELIST": "node[07-08,12]",
}  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"HOROVOD_RANK": "3", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2"},
         Place(3, 4, 1, 2, "horovodrun")),
        ({"HOROVOD_RANK": "0"}, Place(0, 1, 0, 1, "horovodrun")),
        (TORCH | MASTER, Place(5, 8, 1, 4, "torchrun")),
        (TORCH | {place.STORE: "/tmp/x"}, Place(5, 8, 1, 4, "torchrun")),
        (TORCH, None),
        (MASTER, None),
        ({"RANK": "first", "WORLD_SIZE": "8"} | MASTER, None),
        (STEP, Place(3, 5, 1, 2, "srun")),
        (BATCH_SCRIPT, None),
        (BATCH_SCRIPT | TORCH | MASTER, Place(5, 8, 1, 4, "torchrun")),
    ],
)  # fmt: skip
def test_place_is_that_of_the_starter(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Place | None
) -> None:
    for name in [*os.environ]:
        if name.startswith(("HOROVOD_", "SLURM_", "MASTER_")) or name in (*place.OF_TORCH, place.STORE):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert place.current() == expected
    place.forget()
    assert place.current() is None


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("", ""), ("alone", "alone"), ("a,b", "a"), ("node[07-08,12],x", "node07"), ("r[1-2]n[03-04],z", "r1n03"),
     ("gpu-a[9]", "gpu-a9"), ("n1,n[2-3]", "n1")],
)  # fmt: skip
def test_first_of_slurms_hosts(hosts: str, first: str) -> None:
    assert place.first_host(hosts) == first


def test_slurms_numbers_of_tasks_are_expanded() -> None:
    assert place.expanded_tasks("2(x3),1") == [2, 2, 2, 1]
    assert place.expanded_tasks("4") == [4] and place.expanded_tasks("") == []


def test_processes_of_a_slurm_step_meet_at_its_first_host_unless_told_otherwise() -> None:
    host, port = place.slurm_meeting_point(STEP)
    assert (host, port) == ("node07", place.SLURM_PORTS[77 + 2])
    assert place.slurm_meeting_point(STEP | {"SLURM_JOB_ID": "987654321"})[1] in place.SLURM_PORTS
    assert place.slurm_meeting_point(STEP | MASTER) == ("10.0.0.1", 29500)
