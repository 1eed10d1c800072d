"""Masked words and crop boxes repeat the released code's draws and follow its rules."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alpro.data.batches.masking import crop_box, mask_tokens
from alpro.errors import ConfigError

GOLDENS = Path(__file__).parents[2] / "goldens"
MASK, VOCAB = 103, 30522


def test_masking_repeats_the_released_draws():
    golden = json.loads((GOLDENS / "l_mlm_masking.json").read_text())
    ids = torch.tensor(golden["input_ids"])
    special = (ids == 0) | (ids == 101) | (ids == 102)
    for case in golden["cases"]:
        generator = torch.Generator().manual_seed(case["torch_seed"])
        masked, labels = mask_tokens(ids, special, MASK, VOCAB, 0.15, generator)
        assert masked.tolist() == case["inputs"]
        assert labels.tolist() == case["labels"]


def test_masking_keeps_its_proportions_and_skips_special_tokens():
    ids = torch.full((200, 500), 7)
    special = torch.zeros_like(ids, dtype=torch.bool)
    special[:, 0] = True
    masked, labels = mask_tokens(ids, special, MASK, VOCAB, 0.15, torch.Generator().manual_seed(0))
    chosen = labels != -100
    assert not chosen[:, 0].any() and (masked[~chosen] == 7).all() and (labels[chosen] == 7).all()
    assert chosen.float().mean() == pytest.approx(0.15, abs=0.003)
    assert (masked[chosen] == MASK).float().mean() == pytest.approx(0.8, abs=0.01)
    assert (masked[chosen] == 7).float().mean() == pytest.approx(0.1, abs=0.01)


def test_crop_boxes_repeat_the_released_draws():
    for case in json.loads((GOLDENS / "l_random_erase.json").read_text())["cases"]:
        box = crop_box(np.random.RandomState(case["np_random_seed"]), 224, 16)
        assert box == (case["left"], case["top"], case["w"], case["h"])
        assert 14 * 14 - box[2] * box[3] / 256 == case["mask_sum"]


@pytest.mark.parametrize(("size", "patch"), [(32, 16), (64, 16), (96, 8), (224, 16)])
def test_crop_boxes_are_on_the_patch_grid_inside_the_frame(size, patch):
    rng = np.random.RandomState(1)
    for _ in range(300):
        left, top, width, height = crop_box(rng, size, patch)
        assert not any(v % patch for v in (left, top, width, height)) and min(width, height) >= patch
        assert left + width <= size and top + height <= size


def test_crop_box_that_cannot_fit_is_a_clear_error():
    with pytest.raises(ConfigError, match="crop_area"):
        crop_box(np.random.RandomState(0), 224, 16, area=(0.9, 1.0), aspect=(5.0, 6.0))
