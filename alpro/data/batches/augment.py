"""Augmentation of training frames: RandAugment, identical for all frames of a clip, and crops.

Operations, magnitudes and random draws are those of the released code (paper, section 4.2: RandAugment(N=2, M=5) with
ten operations). Warps use OpenCV's fixed-point arithmetic and give the same pixels without OpenCV. torchvision's
contrast, sharpness and warps give different pixels.
Letters: T frames, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

FILL = 128  # gray level of pixels that a warp takes from outside the frame
_MAX_MAGNITUDE = 10
_CONTRAST_WEIGHTS = (0.114, 0.587, 0.299)  # in the order blue, green, red as in the released code, although frames are RGB
_VIDEO = (
    "Identity", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate",
    "HorizontalFlip",
)  # fmt: skip
_IMAGE = ("Identity", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


# --- the operations ---------------------------------------------------------------------------------------


def apply(name: str, frames: Tensor, magnitude: float) -> Tensor:
    """Apply one operation at a magnitude from 0 to 10 to all frames: (T, 3, H, W) uint8 -> the same shape."""
    return _OPERATIONS[name](frames, magnitude / _MAX_MAGNITUDE)


def _enhance(strength: float) -> float:
    return 1.8 * strength + 0.1  # so magnitude 5 changes nothing


def _contrast(frames: Tensor, strength: float) -> Tensor:
    """Move pixels away from, or towards, the mean brightness of each frame."""
    factor = _enhance(strength)
    if factor == 1:
        return frames
    weights = torch.tensor(_CONTRAST_WEIGHTS, dtype=torch.float64)
    means = frames.mean((2, 3), dtype=torch.float64) @ weights  # (T,)
    levels = torch.arange(256, dtype=torch.float64)
    tables = ((levels - means[:, None]) * factor + means[:, None]).clamp(0, 255).to(torch.uint8)  # (T, 256)
    return tables.gather(1, frames.flatten(1).long()).view_as(frames)


def _brightness(frames: Tensor, strength: float) -> Tensor:
    factor = _enhance(strength)
    return frames if factor == 1 else (frames.float() * factor).clamp(0, 255).to(torch.uint8)


def _sharpness(frames: Tensor, strength: float) -> Tensor:
    """Move pixels away from, or towards, a blurred frame. Clamps to 0..255; the released code wraps around."""
    factor = _enhance(strength)
    if factor == 1:
        return frames
    pixels = frames.to(torch.int32)
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    inner = pixels[..., 1:-1, 1:-1]
    weighted = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner
    blurred = ((2 * weighted + 13) // 26).float()  # weighted / 13, rounded
    sharp = frames.clone()  # the outermost pixels are unchanged
    sharp[..., 1:-1, 1:-1] = (blurred + factor * (inner - blurred)).clamp(0, 255).to(torch.uint8)
    return sharp


def _flip(frames: Tensor, strength: float) -> Tensor:
    return frames.flip(-1)


def _shear_x(frames: Tensor, strength: float) -> Tensor:
    return warp(frames, (1, 0.3 * strength, 0, 0, 1, 0))


def _shear_y(frames: Tensor, strength: float) -> Tensor:
    return warp(frames, (1, 0, 0, 0.3 * strength, 1, 0))


def _translate_x(frames: Tensor, strength: float) -> Tensor:
    return warp(frames, (1, 0, -_MAX_MAGNITUDE * strength, 0, 1, 0))


def _translate_y(frames: Tensor, strength: float) -> Tensor:
    return warp(frames, (1, 0, 0, 0, 1, -_MAX_MAGNITUDE * strength))


def _rotate(frames: Tensor, strength: float) -> Tensor:
    """Rotate anticlockwise by up to 30 degrees around (W/2, H/2)."""
    height, width = frames.shape[-2:]
    x, y, angle = width / 2, height / 2, math.radians(30 * strength)
    cos, sin = math.cos(angle), math.sin(angle)
    return warp(frames, (cos, sin, (1 - cos) * x - sin * y, -sin, cos, sin * x + (1 - cos) * y), single=False)


def warp(frames: Tensor, matrix: tuple[float, ...], single: bool = True) -> Tensor:
    """Warp by an affine map with linear interpolation, gray outside: (T, 3, H, W) uint8 -> the same shape.

    `matrix` (a, b, c, d, e, f) maps (x, y) to (ax + by + c, dx + ey + f); `single` rounds it to single precision.
    Fixed point as in OpenCV's warpAffine: positions in 1/32 of a pixel, computed in 1/1024.
    """
    height, width = frames.shape[-2:]
    a, b, c, d, e, f = (float(np.float32(value)) if single else value for value in matrix)
    scale = 1 / (a * e - b * d)
    a, b, d, e = e * scale, -b * scale, -d * scale, a * scale
    c, f = -a * c - b * f, -d * c - e * f
    across, down = np.arange(width), np.arange(height)[:, None]

    def position(along_x: float, along_y: float, offset: float) -> tuple[Tensor, Tensor]:
        by_row = np.rint((along_y * down + offset) * 1024).astype(np.int64) + 16
        fixed = (by_row + np.rint(along_x * across * 1024).astype(np.int64)) >> 5
        return torch.from_numpy(fixed >> 5), torch.from_numpy(fixed & 31)  # whole pixels and 1/32 pixels

    column, right = position(a, b, c)  # (H, W) each
    row, below = position(d, e, f)
    bordered = torch.nn.functional.pad(frames, (1, 1, 1, 1), value=FILL)
    pixels = bordered.flatten(2).flatten(0, 1).T.contiguous()  # ((H+2)(W+2), 3T): one look-up reads a pixel of all frames
    moved = torch.zeros((height * width, pixels.shape[1]), dtype=torch.int32)
    column, row = column + 1, row + 1
    for dy, weight_y in ((0, 32 - below), (1, below)):
        for dx, weight_x in ((0, 32 - right), (1, right)):
            weight = (weight_y * weight_x).to(torch.int32)
            if not weight.any():
                continue
            source = (row + dy).clamp(0, height + 1) * (width + 2) + (column + dx).clamp(0, width + 1)
            moved.addcmul_(pixels.index_select(0, source.flatten()).to(torch.int32), weight.view(-1, 1))
    return ((moved + 512) >> 10).to(torch.uint8).T.contiguous().view_as(frames)


_OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Identity": lambda frames, strength: frames,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "HorizontalFlip": _flip,
}


# --- random augmentation ----------------------------------------------------------------------------------


def randaugment_video(frames: Tensor, operations: int, magnitude: float, rng: np.random.RandomState) -> Tensor:
    """Apply `operations` different operations out of ten to all frames: (T, 3, H, W) uint8 -> the same shape."""
    for name in rng.choice(_VIDEO, operations, replace=False):
        frames = apply(str(name), frames, magnitude)
    return frames


def randaugment_image(frames: Tensor, operations: int, magnitude: float, rng: np.random.RandomState) -> Tensor:
    """RandAugment of pre-training images: drawn with replacement, without contrast and flip, each applied with odds of 1/2."""
    for name in rng.choice(_IMAGE, operations):
        if rng.uniform() < 0.5:
            frames = apply(str(name), frames, magnitude)
    return frames


def random_crop(frames: Tensor, size: int, rng: np.random.RandomState) -> Tensor:
    """Crop the same random square out of all frames: (T, 3, H, W) -> (T, 3, size, size)."""
    height, width = frames.shape[-2:]
    top, left = rng.randint(0, height - size + 1), rng.randint(0, width - size + 1)
    return frames[..., top : top + size, left : left + size]


def center_crop(frames: Tensor, size: int) -> Tensor:
    """Crop the central square: (T, 3, H, W) -> (T, 3, size, size)."""
    top, left = (frames.shape[-2] - size) // 2, (frames.shape[-1] - size) // 2
    return frames[..., top : top + size, left : left + size]


def random_resized_crop(image: Any, size: int, rng: np.random.RandomState, scale: tuple[float, float] = (0.2, 1.0)) -> Tensor:
    """Resize a random crop of a PIL image to a square, bicubic: (1, 3, size, size) uint8.

    The crop has a share of the image's area in `scale` and an aspect of 3/4 to 4/3. After ten failed tries it is the
    largest central crop of an allowed aspect, as in torchvision's RandomResizedCrop.
    """
    left, top, width, height = _draw_crop(image.width, image.height, rng, scale)
    return _resize_box(image, size, (left, top, left + width, top + height))


def _draw_crop(width: int, height: int, rng: np.random.RandomState, scale: tuple[float, float]) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            top, left = rng.randint(0, height - down + 1), rng.randint(0, width - across + 1)
            return left, top, across, down
    across, down = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (width - across) // 2, (height - down) // 2, across, down


def resize_image(image: Any, size: int) -> Tensor:
    """Squeeze a whole PIL image to a square, bicubic: (1, 3, size, size) uint8."""
    return _resize_box(image, size, (0, 0, *image.size))


def _resize_box(image: Any, size: int, box: tuple[int, int, int, int]) -> Tensor:
    from PIL import Image

    square = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].contiguous()
