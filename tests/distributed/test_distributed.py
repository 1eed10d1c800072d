"""Collectives: exact, in rank order, bit-identical in every run; a world of one needs no Horovod."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alpro import distributed
from tests.training.processes import ROOT, both_backends, done, needs_horovod, torch_slow, world


def test_collectives_in_a_world_of_one_return_their_input() -> None:
    imported = "horovod" in sys.modules  # by an earlier test of this process
    distributed.init()
    x = torch.randn(3, 2, requires_grad=True)
    assert distributed.gather(x).rows is x and distributed.gather(x).offset == 0
    assert (distributed.rank(), distributed.size(), distributed.local_rank(), distributed.local_size()) == (0, 1, 0, 1)
    assert distributed.row_sizes(3) == [3]
    assert distributed.gather_objects("a") == ["a"] and distributed.broadcast_object("a") == "a"
    assert distributed.any_true(True) and not distributed.any_true(False)
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.ones(2)
    distributed.GradientExchange([p]).finish()
    assert torch.equal(p.grad, torch.ones(2))
    distributed.broadcast_state(torch.nn.Linear(1, 1))
    distributed.barrier()
    assert ("horovod" in sys.modules) == imported


def test_only_a_larger_world_requires_horovod() -> None:
    code = "import sys; sys.modules['horovod'] = None\nfrom alpro import distributed\ndistributed.init()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    environment |= {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"}
    failed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert failed.returncode != 0
    assert "a world of 2 processes needs Horovod" in failed.stderr.splitlines()[-1]


@needs_horovod
def test_horovod_starts_again_after_a_change_of_an_elastic_world() -> None:
    """It crashes if both HOROVOD_CYCLE_TIME and HOROVOD_FUSION_THRESHOLD are set."""
    code = (
        "import os\nfrom alpro.distributed.horovod_backend import HorovodBackend\nbackend = HorovodBackend()\n"
        "del os.environ['HOROVOD_ELASTIC']\n"  # Horovod itself would ask the launcher for the new world
        "for _ in range(2): backend.connect(); backend.leave()\nprint('started twice')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOROVOD_ELASTIC": "1", "HOROVOD_CYCLE_TIME": "5"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and "started twice" in run.stdout, run.stderr


@torch_slow
@pytest.mark.parametrize(("processes", "times"), [(2, 1), pytest.param(4, 2, marks=pytest.mark.slow)])
def test_collectives_are_exact_and_reproducible(tmp_path: Path, processes: int, times: int, backend: str) -> None:
    runs = []
    for number in range(times):
        command = ["-m", "tests.distributed.collectives_world", str(tmp_path / f"{number}.json")]
        done(world(processes, command, backend=backend))
        runs.append(json.loads((tmp_path / f"{number}.json").read_text()))
    digests = {digest for run in runs for rank in run for digest in rank[0][1:]}
    unsplit = {rank[0][0] for run in runs for rank in run}
    assert len(digests) == 1 and len(unsplit) == 1
    assert [rank[1:] for rank in runs[0]] == [[r, r, processes] for r in range(processes)]


@both_backends
@pytest.mark.slow
def test_row_offsets_use_the_global_not_the_local_rank(tmp_path: Path, backend: str) -> None:
    """Two names of this machine count as two hosts: rank 1 is the first rank of its host."""
    command = ["-m", "tests.distributed.collectives_world", str(tmp_path / "out.json")]
    done(world(2, command, hosts="localhost:1,127.0.0.1:1", backend=backend))
    results = json.loads((tmp_path / "out.json").read_text())
    assert [rank[1:] for rank in results] == [[0, 0, 1], [1, 0, 1]]
