"""N processes with B samples give the losses and gradients of one with N x B, for all models; `pytest -s` prints figures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.models_world import LOSSES, ROWS, gradients, run_rank
from tests.training.processes import both_backends, done, forked_world, world

FAINT = 1e-6  # relative to the whole gradient; smaller ones are rounding errors, as key biases have an exact gradient of zero


def compare(many: dict[str, Any], one: dict[str, Any], loss_limit: float, limit: float) -> None:
    for task, results in one.items():
        off = (many[task]["losses"] - results["losses"]).abs().max().item()
        whole = torch.stack([g.norm() for g in results["gradients"].values() if g is not None]).norm()
        relative, faint = 0.0, 0.0
        for name, gradient in results["gradients"].items():
            other = many[task]["gradients"][name]
            assert (other is None) == (gradient is None), (task, name)
            if gradient is None:
                continue
            error = (other - gradient).norm()
            if gradient.norm() > FAINT * whole:
                assert error <= limit * gradient.norm(), (task, name)
                relative = max(relative, (error / gradient.norm()).item())
            else:
                assert error <= limit * max(1, whole), (task, name)
                faint = max(faint, error.item())
        print(f"{task:9} losses differ by {off:.1e}, gradients by {relative:.1e} relative, faint ones by {faint:.1e}")
        assert off <= loss_limit, task


def run(processes: int, out: Path, tasks: Iterable[str] = (), **options: Any) -> Any:
    done(world(processes, ["-m", "tests.training.models_world", str(out), *tasks], **options))
    return torch.load(out)


def check_equal(results: dict[str, Any], tasks: Iterable[str] = LOSSES) -> None:
    one = gradients(tasks=tasks)
    for task, uneven in (("pretrain", "mlm"), ("pretrain", "pem"), ("counted", "pem"), ("qa", "qa")):
        if task in one:
            counts = [of[uneven] for of in results["float32"][task]["counts"]]
            assert len(set(counts)) > 1 and sum(counts) == one[task]["counts"][0][uneven]
    print("float32:")
    compare(results["float32"], one, 1e-6, 1e-5)
    print("float64:")
    compare(results["float64"], gradients(torch.float64, tasks=tasks), 1e-10, 1e-10)


def test_two_processes_give_the_pretraining_gradients_of_one_large_batch(tmp_path: Path) -> None:
    """Pre-training has all losses except that of question answering; the slow tests cover all tasks, and Horovod."""
    tasks = ["pretrain", "counted", "retrieval_shared", "qa_shared"]
    forked_world(2, lambda: run_rank(tmp_path / "out.pt", tasks))
    results = torch.load(tmp_path / "out.pt")
    check_equal(results, tasks)
    check_mean_of_means(results["processes"], 2)


TWO_HOSTS = "localhost:{0},127.0.0.1:{0}"  # two names of this machine


@both_backends
@pytest.mark.slow
@pytest.mark.parametrize(("processes", "hosts"), [(2, None), (2, TWO_HOSTS), (4, None), (4, TWO_HOSTS)])
def test_processes_give_the_gradients_of_one_large_batch(
    tmp_path: Path, processes: int, hosts: str | None, backend: str
) -> None:
    named = {"hosts": hosts.format(processes // 2)} if hosts else {}
    results = run(processes, tmp_path / "out.pt", backend=backend, **named)
    local = processes // 2 if hosts else processes
    assert results["float32"]["qa"]["ranks"] == [(rank, rank % local) for rank in range(processes)]
    print(f"\n{backend}: {processes} processes, hosts {hosts or 'one'}")
    check_equal(results)
    check_mean_of_means(results["processes"], processes)


def check_mean_of_means(many: dict[str, Any], processes: int) -> None:
    """Check `average: processes`, as in the released code: each process's mean has the same weight, whatever its count."""
    share = ROWS // processes
    for task in ("qa", "counted"):
        if task not in many:
            continue
        rows = (slice(r * share, (r + 1) * share) for r in range(processes))
        parts = [gradients(torch.float64, mine, tasks=[task], average="processes")[task] for mine in rows]
        losses = torch.stack([part["losses"] for part in parts]).mean(0)
        torch.testing.assert_close(many[task]["losses"], losses)
        for name, gradient in many[task]["gradients"].items():
            if gradient is not None:
                mean = torch.stack([part["gradients"][name] for part in parts]).mean(0)
                torch.testing.assert_close(gradient, mean, atol=1e-12, rtol=1e-10)
        exact = gradients(torch.float64, tasks=[task])[task]["losses"]
        assert not torch.isclose(losses, exact, atol=1e-4).any(), task  # the sum and each loss
