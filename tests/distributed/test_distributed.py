"""Collectives: exact, in rank order, bit-identical in every run; a world of one needs no Horovod."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from alpro import distributed
from tests.distributed.collectives_world import run_rank
from tests.training.processes import ROOT, both_backends, done, forked_world, needs_horovod, world


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
    code = (
        "import os, sys\nsys.modules['horovod'] = None\nfrom alpro import distributed\ndistributed.init()\n"
        "os.environ |= {'HOROVOD_RANK': '0', 'HOROVOD_SIZE': '2'}\nprint('a world of one')\ndistributed.init()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    failed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert failed.stdout == "a world of one\n" and failed.returncode != 0
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


def check_reproducible(files: Sequence[Path], processes: int) -> None:
    runs = [json.loads(file.read_text()) for file in files]
    digests = {digest for run in runs for rank in run for digest in rank[0][1:]}
    unsplit = {rank[0][0] for run in runs for rank in run}
    assert len(digests) == 1 and len(unsplit) == 1
    assert [rank[1:] for rank in runs[0]] == [[r, r, processes] for r in range(processes)]


def test_collectives_are_exact_and_reproducible(tmp_path: Path) -> None:
    """Those of torch; those of Horovod are checked below, and by the gradients of tests/training/test_engine_world.py."""
    files = [tmp_path / "first.json", tmp_path / "second.json"]
    for file in files:
        forked_world(3, partial(run_rank, file))
    check_reproducible(files, 3)


@both_backends
@pytest.mark.slow
def test_collectives_of_four_processes_are_exact_and_reproducible(tmp_path: Path, backend: str) -> None:
    files = [tmp_path / "first.json", tmp_path / "second.json"]
    for file in files:
        done(world(4, ["-m", "tests.distributed.collectives_world", str(file)], backend=backend))
    check_reproducible(files, 4)


@both_backends
@pytest.mark.slow
def test_row_offsets_use_the_global_not_the_local_rank(tmp_path: Path, backend: str) -> None:
    """Two names of this machine count as two hosts: rank 1 is the first rank of its host."""
    command = ["-m", "tests.distributed.collectives_world", str(tmp_path / "out.json")]
    done(world(2, command, hosts="localhost:1,127.0.0.1:1", backend=backend))
    results = json.loads((tmp_path / "out.json").read_text())
    assert [rank[1:] for rank in results] == [[0, 0, 1], [1, 0, 1]]
