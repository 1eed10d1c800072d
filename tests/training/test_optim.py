"""Optimizer and schedule equal the released code's (goldens i)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from alpro.training.optim import AdamW
from alpro.training.schedule import learning_rate, validation_steps
from tests.goldens_recipe import GOLDENS, draw


def golden(name: str) -> Any:
    return json.loads((GOLDENS / f"{name}.json").read_text())


@pytest.mark.parametrize("case", ["official_wd0", "official_wd0.1", "official_wd0_sched"])
def test_five_steps_are_the_released_codes(case: str) -> None:
    p = torch.nn.Parameter(torch.tensor([[1, -2, 0.5], [0.1, 0, -0.3]]))
    q = torch.nn.Parameter(torch.tensor([0.25, -0.75]))
    x, y = draw("adamw:x", (5, 4, 3)), draw("adamw:y", (5, 4, 2))
    optimizer = AdamW([p, q], lr=1e-2, weight_decay=0.1 if case.endswith("0.1") else 0.0)
    for step, expected in enumerate(golden("i_adamw")[case]):
        if case.endswith("sched"):
            optimizer.param_groups[0]["lr"] = learning_rate(step + 1, 1e-2, 0.4, 5)
        loss = ((x[step] @ p.T + q - y[step]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.item() == pytest.approx(expected["loss"], abs=1e-6)
        torch.testing.assert_close(p.detach(), torch.tensor(expected["w"]), atol=3e-7, rtol=0)
        torch.testing.assert_close(q.detach(), torch.tensor(expected["b"]), atol=3e-7, rtol=0)


def test_epsilon_is_added_before_the_bias_correction() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = AdamW([p], lr=1e-2)
    for step in range(5):
        p.grad = torch.tensor([1e-8, 1e-6, 1e-3]) * (step + 1)
        optimizer.step()
    expected = golden("i_adamw")
    torch.testing.assert_close(p.detach(), torch.tensor(expected["tiny_grad_5steps_official"]), atol=1e-7, rtol=0)
    assert (p.detach() - torch.tensor(expected["tiny_grad_5steps_torch_eps1e-6"])).abs().max() > 1e-3


def _by_the_formula(p: Tensor, grads: list[Tensor | None], lr: float, decay: float) -> Tensor:
    """Apply the released code's formula to one tensor at a time, as a reference."""
    p, m, v, t = p.clone(), torch.zeros_like(p), torch.zeros_like(p), 0
    for g in grads:
        if g is None:
            continue
        t += 1
        m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
        p = p - lr * (1 - 0.98**t) ** 0.5 / (1 - 0.9**t) * m / (v.sqrt() + 1e-6)
        p = p - lr * decay * p
    return p


def test_fused_step_equals_the_formula_even_for_skipped_parameters() -> None:
    torch.manual_seed(0)
    shapes = [(3, 4), (5,), ()]
    params = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    before = [p.detach().clone() for p in params]
    grads: list[list[Tensor | None]] = [[torch.randn(shape, dtype=torch.float64) for _ in range(6)] for shape in shapes]
    grads[1][2] = grads[1][3] = None
    optimizer = AdamW(params, lr=1e-2, weight_decay=0.3)
    for step in range(6):
        for p, of in zip(params, grads, strict=True):
            p.grad = of[step]
        optimizer.step()
    for p, start, of in zip(params, before, grads, strict=True):
        torch.testing.assert_close(p.detach(), _by_the_formula(start, of, 1e-2, 0.3), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("ratio", [0.1, 0.05])
def test_learning_rate_equals_the_released_codes(ratio: float) -> None:
    expected = golden("i_lr_schedule")[f"linear_lr1e-4_warmup{ratio}_steps100"]
    assert [learning_rate(k, 1e-4, ratio, 100) for k in range(len(expected))] == pytest.approx(expected, rel=1e-12)


def test_learning_rate_is_defined_for_very_short_trainings() -> None:
    assert all(learning_rate(k, 1e-4, ratio, total) > 0 for ratio in (0, 1) for total in (1, 2) for k in range(1, total + 1))


def test_validations_are_evenly_spaced_and_include_the_last_step() -> None:
    assert validation_steps(100, 4) == {25, 50, 75, 100}
    assert validation_steps(7, 2) == {4, 7}
    assert validation_steps(2, 5) == {1, 2}


def test_training_does_not_import_the_compiler():
    code = """
import sys, torch
from alpro.training.optim import AdamW
p = torch.nn.Parameter(torch.ones(3))
optimizer = AdamW([p], 0.1)
p.grad = torch.ones(3)
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
