"""Each objective equals a plain implementation of its definition."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from alpro.models.encoders import black, normalize
from alpro.objectives import hard_negatives, masked_positions, mlm_loss, pem, vtc_loss


def unit(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_vtc_is_the_mean_of_both_directions():
    v, t, temperature = unit(5, 0), unit(5, 1), 0.07
    s = (v @ t.T / temperature).double()
    want = sum(
        math.log(sum(math.exp(x) for x in s[i])) + math.log(sum(math.exp(x) for x in s[:, i])) - 2 * s[i, i] for i in range(5)
    )
    assert vtc_loss(v, t, v, t, 0, temperature)[0].item() == pytest.approx(float(want) / 10, rel=1e-5)


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3), (3, 2, 1)])
def test_vtc_over_processes_equals_vtc_of_the_whole_batch(sizes):
    v, t = unit(sum(sizes), 0), unit(sum(sizes), 1)
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [vtc_loss(v[o : o + n], t[o : o + n], v, t, o, 0.07)[0] * n for o, n in zip(offsets, sizes, strict=True)]
    torch.testing.assert_close(sum(parts) / sum(sizes), vtc_loss(v, t, v, t, 0, 0.07)[0])


def test_vtc_is_exact_under_autocast():
    v, t = unit(6, 0), unit(6, 1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = vtc_loss(v, t, v, t, 0, torch.tensor(0.07))[0]
    assert inside.equal(vtc_loss(v, t, v, t, 0, torch.tensor(0.07))[0])


def test_negatives_are_drawn_by_softmax_and_exclude_the_pair():
    similarity = torch.tensor([[9.0, 1.0, 0.0], [0.0, 9.0, 2.0], [1.0, 1.0, 9.0]])
    generator = torch.Generator().manual_seed(0)
    samples = torch.stack([hard_negatives(similarity, generator) for _ in range(2000)])
    share = F.one_hot(samples, 3).double().mean(0)
    assert not share.diagonal().any()
    assert share[0, 1].item() == pytest.approx(math.e / (math.e + 1), abs=0.04)
    assert share[1, 2].item() == pytest.approx(math.exp(2) / (math.exp(2) + 1), abs=0.04)


def test_negatives_are_found_despite_underflowing_similarities():
    """At temperature 0.001 the weights of the other pairs underflow."""
    similarity = torch.full((4, 4), -900.0).fill_diagonal_(1000.0)
    assert all(i != j for i, j in enumerate(hard_negatives(similarity).tolist()))
    with pytest.raises(ValueError, match="no negatives"):
        hard_negatives(torch.ones(1, 1))


def test_mlm_is_the_mean_over_masked_tokens():
    labels = torch.tensor([[-100, 3, -100], [1, -100, 2]])
    rows, columns = masked_positions(labels)
    logits = torch.randn(2, 3, 7)
    want = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(mlm_loss(logits[rows, columns], labels[rows, columns]), want)


def test_boxes_become_masks_and_crops_are_black_outside():
    boxes = torch.tensor([[8, 0, 16, 24], [0, 16, 8, 8]])
    inside = pem.boxes_to_mask(boxes, 32, 24)
    want = torch.zeros(2, 32, 24, dtype=torch.bool)
    want[0, 0:24, 8:24], want[1, 16:24, 0:8] = True, True
    assert inside.equal(want)
    raw = torch.randint(0, 256, (2, 3, 3, 32, 24), dtype=torch.uint8)
    blackened = raw * want[:, None, None]
    assert pem.crop(normalize(raw), inside, black(raw.device)).equal(normalize(blackened))


def test_mean_is_over_patches_inside_the_box():
    tokens, inside = torch.randn(2, 4, 3), torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]]).bool()
    want = torch.stack([(tokens[0, 0] + tokens[0, 2]) / 2, tokens[1, 3]])
    torch.testing.assert_close(pem.mean_inside(tokens, inside), want)


def test_pem_is_the_mean_over_kept_crops():
    logits, labels = torch.randn(3, 4), torch.rand(3, 4).softmax(1)
    keep = torch.tensor([True, False, True])
    want = F.cross_entropy(logits[keep], labels[keep])
    torch.testing.assert_close(pem.pem_loss(logits, labels, keep), want)


def test_crops_without_a_label_follow_the_rule_pem_ignore():
    labels = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.3, 0.35, 0.35]])
    assert pem.keep_mask(labels, "max_probability", 0.5).tolist() == [True, True, False]
    assert pem.keep_mask(labels, "argmax_zero", 0.5).tolist() == [False, True, True]


def test_dark_batches_are_divided_like_all_others():
    """The released code does not divide a batch of values 0 and 1, so it reads 1 as white."""
    dim = torch.ones(2, 3, 4, 4, dtype=torch.uint8)
    bright = torch.cat([dim, torch.full_like(dim, 255)])
    assert normalize(dim).equal(normalize(bright)[:2])
