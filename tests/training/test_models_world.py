"""N processes with B samples give the losses and gradients of one with N x B, for all four models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.models_world import gradients
from tests.training.processes import done, needs_horovod, world

pytestmark = needs_horovod


def compare(many: dict[str, Any], one: dict[str, Any]) -> None:
    for task, found in one.items():
        torch.testing.assert_close(many[task]["losses"], found["losses"], rtol=0, atol=1e-6)
        whole = torch.stack([g.norm() for g in found["gradients"].values() if g is not None]).norm()
        for name, gradient in found["gradients"].items():
            other = many[task]["gradients"][name]
            assert (other is None) == (gradient is None), (task, name)
            if gradient is not None:
                # key biases have no gradient in exact arithmetic: what there is, is rounding
                scale = max(gradient.norm(), 1e-6 * whole) if gradient.norm() > 1e-6 * whole else whole
                assert (other - gradient).norm() <= 1e-5 * scale, (task, name)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_of_small_batches_give_the_gradients_of_one_large_batch(tmp_path: Path, processes: int) -> None:
    done(world(processes, ["-m", "tests.training.models_world", str(tmp_path / "out.pt")]))
    many, one = torch.load(tmp_path / "out.pt"), gradients()
    for task, uneven in (("pretrain", "mlm"), ("pretrain", "pem"), ("qa", "qa")):
        counts = [of[uneven] for of in many[task]["counts"]]
        assert len(set(counts)) > 1 and sum(counts) == one[task]["counts"][0][uneven]
    compare(many, one)
