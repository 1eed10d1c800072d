"""The package's CPU dropout mask: rate, mean, gradient, and reproducibility by seed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from alpro.models.dropout import Dropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_has_the_requested_rate_and_keeps_the_mean(rate, dtype):
    torch.manual_seed(0)
    out = dropout(torch.ones(999, 1001, dtype=dtype), rate).double()
    kept = out != 0
    assert kept.double().mean().item() == pytest.approx(1 - rate, abs=0.002)  # 4 deviations of the binomial
    assert out[kept].unique().numel() == 1
    assert out.mean().item() == pytest.approx(1, abs=0.021 if rate == 0.9 else 0.007)  # and bf16's rounding of 1 / (1 - rate)


def test_four_lanes_of_a_draw_are_equally_likely():
    torch.manual_seed(1)
    kept = dropout(torch.ones(400_000, 4), 0.3) != 0
    assert kept.double().mean(0).tolist() == pytest.approx([0.7] * 4, abs=0.003)
    together = torch.corrcoef(kept.T.double()).fill_diagonal_(0)
    assert together.abs().max() < 0.007


def test_gradient_uses_the_mask_of_the_forward_pass():
    torch.manual_seed(2)
    x = torch.randn(7, 5, requires_grad=True)
    out = dropout(x, 0.4)
    out.sum().backward()
    torch.testing.assert_close(out, x * x.grad)
    assert x.grad.unique().tolist() == pytest.approx([0, 1 / 0.6], abs=1e-4)


def test_mask_is_reproducible_by_seed():
    x = torch.ones(50, 3).T  # neither contiguous nor a multiple of four
    first, again, other = (dropout(x, 0.5) for seed in (3, 3, 4) if torch.manual_seed(seed))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2)])
def test_small_and_empty_tensors_are_accepted(shape):
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_rate_near_one_stays_finite():
    assert dropout(torch.ones(100_000), 1 - 1e-9).isfinite().all()


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero():
    x = torch.randn(100)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_bert_uses_only_this_dropout(small):
    assert {type(module) for module in small("pretrain").bert.modules() if isinstance(module, nn.Dropout)} == {Dropout}
