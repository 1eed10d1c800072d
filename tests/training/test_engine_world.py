"""Several processes give the results of one, within the stated tolerance, and end together."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from alpro.training.snapshots import SnapshotStore
from tests.training.processes import both_backends, done, ended, first_failure, forked_world, torch_slow, world
from tests.training.toy import gradients, main, same, train

TOY = ["-m", "tests.training.toy"]
JOBS = [
    ["gradients", {}],
    ["gradients", {"dtype": "float64"}],
    ["gradients", {"dtype": "float64", "changes": {"accumulation": 3}}],
    ["train", {"steps": 8}],
    ["train", {"steps": 8, "unreadable": 1, "allowed": 2}],
    ["exchanges", {"steps": 4, "accumulation": 3}],
    ["stopped", {"steps": 8, "bad_step": 3, "changes": {"accumulation": 2}}],
    ["stopped", {"steps": 8, "bad_gradient_step": 3, "changes": {"accumulation": 2}}],
    ["stopped", {"steps": 8, "weight": 1e9, "changes": {"compression": "fp16"}}],
]


def check_equal(results: list[Any]) -> None:
    for (_, options), one, tolerance in zip(JOBS[:3], (gradients(**j[1]) for j in JOBS[:3]), (1e-5, 1e-10, 1e-10), strict=True):  # type: ignore[arg-type]
        many = results[JOBS.index(["gradients", options])]
        torch.testing.assert_close(many["losses"], one["losses"], rtol=0, atol=max(1e-10, tolerance / 10))
        whole = torch.stack([g.norm() for g in one["gradients"].values() if g is not None]).norm()
        for name, gradient in one["gradients"].items():
            if gradient is None:
                assert many["gradients"][name] is None
            else:
                error = (many["gradients"][name] - gradient).norm()
                assert error <= tolerance * max(gradient.norm(), 1e-6 * whole), name
    one = train(8)
    for row, other in zip(results[3]["history"], one["history"], strict=True):
        assert other.pop("split") == row["split"]
        assert other == pytest.approx({name: value for name, value in row.items() if name != "split"}, rel=2e-4)
    assert results[3]["best"] == pytest.approx(one["best"], rel=1e-4)
    assert results[5] == 4  # one exchange per step, for any number of micro-steps


def check_culprits(results: list[Any]) -> None:
    """Check the message for three cases: rank 1's rows 5 to 7 are non-finite, only its gradient is, or only the mean is."""
    loss, gradient, mean = results[6:]
    rows = "batch toy/5, toy/6, toy/7"
    assert f"step 2: loss or gradient is not finite (rank 1: contrast, items; {rows}); no snapshot" in loss
    assert (
        f"step 2: loss or gradient is not finite (rank 1: gradient; {rows}; rank 1: gradient; {rows}); no snapshot" in gradient
    )
    only_mean = "every rank's own gradient is finite, but their mean or its norm is not"
    assert f"step 1: loss or gradient is not finite ({only_mean}; rank 0: " in mean


def run(processes: int, out: Path, jobs: Any, backend: str) -> list[Any]:
    done(world(processes, [*TOY, str(out), json.dumps(jobs)], backend=backend))
    return torch.load(out)


@both_backends
def test_two_processes_give_the_results_of_one_and_sum_skipped_samples(tmp_path: Path, backend: str) -> None:
    if backend == "torch":
        forked_world(2, lambda: main(str(tmp_path / "out.pt"), json.dumps(JOBS)))
        results = torch.load(tmp_path / "out.pt")
    else:
        results = run(2, tmp_path / "out.pt", JOBS, backend)
    check_equal(results)
    check_culprits(results)
    assert [row.get("left_out") for row in results[4]["history"] if row["split"] == "train"] == [
        3
    ] * 4  # one on rank 0, two on rank 1


@both_backends
@pytest.mark.slow
def test_four_processes_give_the_results_of_one_reproducibly(tmp_path: Path, backend: str) -> None:
    first, second = (run(4, tmp_path / name, JOBS, backend) for name in ("a.pt", "b.pt"))
    check_equal(first)
    assert all(same(a, b) for a, b in zip(first, second, strict=True))


@torch_slow
@pytest.mark.parametrize(
    "fault",
    [pytest.param({"bad_step": 4, "bad_value": "inf"}, marks=pytest.mark.slow), {"die_step": 4}],  # quick: test_engine.py
    ids=["inf", "exception"],
)
def test_fault_on_one_rank_is_reported_first_and_ends_all(tmp_path: Path, fault: dict[str, Any], backend: str) -> None:
    fault |= {"state": str(tmp_path / "state"), "fault_file": str(tmp_path / "fault"), "sleep_s": 0.05}
    job = ["train", {"steps": 8, "show": True, "changes": {"save_every_s": 0.01}, **fault}]
    process = world(2, [*TOY, str(tmp_path / "out.pt"), json.dumps([job])], stderr=subprocess.PIPE, backend=backend)
    output, errors = ended(process, tmp_path / "fault")
    store = SnapshotStore(tmp_path / "state")
    newest = store.newest()
    assert newest is not None and newest.state["step"] == 3 and newest.tensors("weights")
    store.close()
    failure = first_failure(errors)
    assert failure.startswith("alpro launch: rank ")
    if "bad_step" in fault:  # all stop together, and any of them may report it
        assert "step 4: loss or gradient is not finite (rank 1: contrast, items; " in failure and "batch toy/" in failure
    else:
        assert failure.startswith("alpro launch: rank 1") and "a fault on one rank" in failure
    assert "LostRankError" not in output + errors


def kill_until_done(tmp_path: Path, kills: int, seed: int, backend: str) -> list[Any]:
    """Train with two processes whose launcher is killed repeatedly."""
    options = {"steps": 60, "dropout": 0.3, "sleep_s": 0.05, "state": str(tmp_path / "state")}
    jobs = [["train", {**options, "changes": {"save_every_s": 0.05, "validations": 12}}]]
    out, generator = tmp_path / "out.pt", torch.Generator().manual_seed(seed)
    for _ in range(kills):
        process = world(2, [*TOY, str(out), json.dumps(jobs)], backend=backend)
        launcher = psutil.Process(process.pid)
        before = len(list((tmp_path / "state").glob("step-*")))
        until_s = time.monotonic() + 300
        while time.monotonic() < until_s and not out.exists():  # until the training has made some progress
            names = list((tmp_path / "state").glob("step-*"))
            if len(names) > min(before, 1) or (before and any(path.stat().st_mtime > launcher.create_time() for path in names)):
                break
            time.sleep(0.05)
        time.sleep(torch.rand((), generator=generator).item())
        family = launcher.children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(family, timeout=30)  # 5 s on an idle machine: tests/launch/test_launch.py
        assert not alive
        if out.exists():
            break
    done(world(2, [*TOY, str(out), json.dumps(jobs)], backend=backend))
    return torch.load(out)


@pytest.mark.slow  # quick ones: one process killed (test_engine.py), a world that resumes (test_resume.py)
@both_backends
@pytest.mark.parametrize("kills", [1, 6])
def test_two_processes_resume_to_the_same_bits_after_their_launcher_is_killed(tmp_path: Path, kills: int, backend: str) -> None:
    jobs = [["train", {"steps": 60, "dropout": 0.3, "changes": {"validations": 12}}]]
    whole = run(2, tmp_path / "whole.pt", jobs, backend)
    assert all(same(a, b) for a, b in zip(kill_until_done(tmp_path, kills, 7, backend), whole, strict=True))
