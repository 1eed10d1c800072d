"""RandAugment and crops: pixels equal the released operations, are the same for all frames, and depend only on the seed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alpro.data.batches import augment

GOLDENS = Path(__file__).parents[2] / "goldens"
PIXELS = np.load(GOLDENS / "l_randaug.npz")
CASES = [name for name in PIXELS.files if name != "image"]


def clip():
    """Return a clip (2, 3, 32, 32): the golden image and its vertical flip."""
    image = torch.from_numpy(PIXELS["image"]).permute(2, 0, 1)
    return torch.stack([image, image.flip(1)])


@pytest.mark.parametrize("case", CASES)
def test_each_operation_equals_the_released_pixels(case):
    name, magnitude = case.split("_M")
    moved = augment.apply(name, clip()[:1], float(magnitude))[0].permute(1, 2, 0).numpy()
    if case == "Sharpness_M7":  # the released code wraps around at 0 and 255; this one clamps
        wrapped = moved != PIXELS[case]
        assert set(np.unique(moved[wrapped])) == {0, 255}
        moved = np.where(wrapped, PIXELS[case], moved)
    np.testing.assert_array_equal(moved, PIXELS[case])


@pytest.mark.parametrize("case", json.loads((GOLDENS / "l_randaug.json").read_text())["temporal_consistent_seeded"])
def test_two_operations_on_a_clip_equal_the_released_results(case):
    moved = augment.randaugment_video(clip(), 2, 5, np.random.RandomState(case["np_random_seed"])).double()
    assert moved.mean().item() == pytest.approx(case["mean"], rel=1e-6)
    assert moved.norm().item() == pytest.approx(case["l2"], rel=1e-6)


def test_all_frames_get_the_same_transformation():
    same = clip()[:1].repeat(4, 1, 1, 1)
    for seed in range(20):
        for kind in (augment.randaugment_video, augment.randaugment_image):
            moved = kind(same, 2, 7, np.random.RandomState(seed))
            assert moved.dtype == torch.uint8 and moved.shape == same.shape
            assert (moved == moved[:1]).all()


def test_draws_depend_on_the_seed():
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (60, 90, 3), dtype=np.uint8))

    def drawn(seed):
        rng = np.random.RandomState(seed)
        part = augment.random_resized_crop(image, 32, rng)
        return augment.random_crop(augment.randaugment_image(part, 2, 7, rng), 24, rng)

    assert torch.equal(drawn(3), drawn(3)) and not torch.equal(drawn(3), drawn(4))
    assert drawn(3).shape == (1, 3, 24, 24)


def test_resized_crops_stay_within_area_and_aspect():
    rng = np.random.RandomState(0)
    for _ in range(200):
        left, top, width, height = augment._draw_crop(120, 80, rng, (0.2, 1.0))
        assert min(left, top) >= 0 and left + width <= 120 and top + height <= 80
        assert 0.19 < width * height / 9600 <= 1 and 0.72 < width / height < 1.39


def test_extreme_aspect_falls_back_to_central_crop():
    assert augment._draw_crop(1000, 10, np.random.RandomState(0), (0.9, 1.0)) == (493, 0, 13, 10)


def test_crops_take_the_same_square_from_every_frame():
    frames = torch.arange(36, dtype=torch.uint8).view(1, 1, 6, 6).repeat(2, 3, 1, 1)
    part = augment.random_crop(frames, 4, np.random.RandomState(5))
    assert part.shape == (2, 3, 4, 4) and (part == part[:1, :1]).all()
    assert augment.center_crop(frames, 4)[0, 0, 0, 0] == 7
