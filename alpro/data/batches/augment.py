"""What training does to frames before the model sees them: RandAugment, the same for all frames, and crops.

Operations, strengths and draws are those of the released code (paper, section 4.2: RandAugment(N=2, M=5) with ten
operations); warps follow OpenCV's fixed-point arithmetic, so the pixels are equal, without OpenCV. (torchvision's
versions of contrast, sharpness and warps give other pixels.)
Letters: T frames, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

FILL = 128  # grey, where a warp uncovers what lies outside the frame
_LARGEST = 10  # the scale of magnitudes
_CONTRAST_WEIGHTS = (0.114, 0.587, 0.299)  # blue, green, red, though frames are RGB: the released code's
_VIDEO = (
    "Identity", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate",
    "HorizontalFlip",
)  # fmt: skip
_IMAGE = ("Identity", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


# --- the operations ---------------------------------------------------------------------------------------


def apply(name: str, frames: Tensor, magnitude: float) -> Tensor:
    """One operation at a magnitude from 0 to 10, the same on all frames: (T, 3, H, W) uint8 -> the same shape."""
    return _OPERATIONS[name](frames, magnitude / _LARGEST)


def _enhance(strength: float) -> float:
    return 1.8 * strength + 0.1  # so magnitude 5 changes nothing


def _contrast(frames: Tensor, strength: float) -> Tensor:
    """Away from, or towards, each frame's mean brightness."""
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
    """Away from, or towards, a blurred frame. Clamped to 0..255, where the released code wraps around."""
    factor = _enhance(strength)
    if factor == 1:
        return frames
    pixels = frames.to(torch.int32)
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    inner = pixels[..., 1:-1, 1:-1]
    weighted = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner
    blurred = ((2 * weighted + 13) // 26).float()  # weighted / 13, rounded
    sharp = frames.clone()  # the outermost pixels stay
    sharp[..., 1:-1, 1:-1] = (blurred + factor * (inner - blurred)).clamp(0, 255).to(torch.uint8)
    return sharp


def _flip(frames: Tensor, strength: float) -> Tensor:
    return frames.flip(-1)


def _shear_x(frames: Tensor, strength: float) -> Tensor:
    return warp(frames, (1, 0.3 * strength, 0, 0, 1, 0))


def _shear_y(frames: Tensor, strength: float) -> Tensor:
    return warp(frames, (1, 0, 0, 0.3 * strength, 1, 0))


def _translate_x(frames: Tensor, strength: float) -> Tensor:
    return warp(frames, (1, 0, -_LARGEST * strength, 0, 1, 0))


def _translate_y(frames: Tensor, strength: float) -> Tensor:
    return warp(frames, (1, 0, 0, 0, 1, -_LARGEST * strength))


def _rotate(frames: Tensor, strength: float) -> Tensor:
    """Anticlockwise, by up to 30 degrees, around the point (W/2, H/2)."""
    height, width = frames.shape[-2:]
    x, y, angle = width / 2, height / 2, math.radians(30 * strength)
    cos, sin = math.cos(angle), math.sin(angle)
    return warp(frames, (cos, sin, (1 - cos) * x - sin * y, -sin, cos, sin * x + (1 - cos) * y), single=False)


def warp(frames: Tensor, matrix: tuple[float, ...], single: bool = True) -> Tensor:
    """Move pixels by an affine map, linear interpolation, grey outside: (T, 3, H, W) uint8 -> the same shape.

    `matrix` (a, b, c, d, e, f) sends (x, y) to (ax + by + c, dx + ey + f); `single`: it was kept in single precision.
    Fixed point as in OpenCV's warpAffine: positions to 1/32 of a pixel, rounded after 1/1024.
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
        return torch.from_numpy(fixed >> 5), torch.from_numpy(fixed & 31)  # whole pixels, and 32nds

    column, right = position(a, b, c)  # (H, W) each
    row, below = position(d, e, f)
    bordered = torch.nn.functional.pad(frames, (1, 1, 1, 1), value=FILL)
    pixels = bordered.flatten(2).flatten(0, 1).T.contiguous()  # ((H+2)(W+2), 3T): one look-up moves a pixel of all frames
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


# --- what is drawn ----------------------------------------------------------------------------------------


def randaugment_video(frames: Tensor, operations: int, magnitude: float, rng: np.random.RandomState) -> Tensor:
    """`operations` different ones out of ten, the same on all frames: (T, 3, H, W) uint8 -> the same shape."""
    for name in rng.choice(_VIDEO, operations, replace=False):
        frames = apply(str(name), frames, magnitude)
    return frames


def randaugment_image(frames: Tensor, operations: int, magnitude: float, rng: np.random.RandomState) -> Tensor:
    """The pre-training images' kind: drawn with replacement, without contrast and flip, each applied every second time."""
    for name in rng.choice(_IMAGE, operations):
        if rng.uniform() < 0.5:
            frames = apply(str(name), frames, magnitude)
    return frames


def random_crop(frames: Tensor, size: int, rng: np.random.RandomState) -> Tensor:
    """One square of `size` pixels out of all frames: (T, 3, H, W) -> (T, 3, size, size)."""
    height, width = frames.shape[-2:]
    top, left = rng.randint(0, height - size + 1), rng.randint(0, width - size + 1)
    return frames[..., top : top + size, left : left + size]


def centre_crop(frames: Tensor, size: int) -> Tensor:
    """The square in the middle: (T, 3, H, W) -> (T, 3, size, size)."""
    top, left = (frames.shape[-2] - size) // 2, (frames.shape[-1] - size) // 2
    return frames[..., top : top + size, left : left + size]


def random_resized_crop(image: Any, size: int, rng: np.random.RandomState, scale: tuple[float, float] = (0.2, 1.0)) -> Tensor:
    """A part of `scale` of a PIL image's area, aspect 3/4 to 4/3, bicubic to a square: (1, 3, size, size) uint8.

    Ten tries, then the largest part in the middle whose aspect is allowed: torchvision's RandomResizedCrop.
    """
    left, top, width, height = _part(image.width, image.height, rng, scale)
    return _squared(image, size, (left, top, left + width, top + height))


def _part(width: int, height: int, rng: np.random.RandomState, scale: tuple[float, float]) -> tuple[int, int, int, int]:
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
    """A whole PIL image squeezed to a square, bicubic: (1, 3, size, size) uint8."""
    return _squared(image, size, (0, 0, *image.size))


def _squared(image: Any, size: int, box: tuple[int, int, int, int]) -> Tensor:
    from PIL import Image

    part = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(part)).permute(2, 0, 1)[None].contiguous()
