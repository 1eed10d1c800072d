"""Rendering of a film: decorated settings with toys, drawn from signed distances (antialiased).

H, W: frame height and width (equal here).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from alpro.data.sample.film import Film

Floats = NDArray[np.float32]
Box = tuple[slice, slice]  # rows and columns of a picture

RGB = {
    "red": (222, 38, 38),
    "yellow": (252, 214, 30),
    "green": (20, 140, 50),
    "blue": (38, 76, 222),
}
_DARK = ("blue", "green", "red")  # colors with a light rim
_SPRITE = 192  # side of the distance maps in pixels; they cover [-1.25, 1.25] half sides of a toy
_REACH = 1.25
_HOLE = 0.52  # radius of a ring's hole, in half sides


# --- toys -------------------------------------------------------------------------------------------------


def _outline(shape: str) -> NDArray[np.float64]:
    """Return the polygon (points, 2) of a shape inside [-1, 1], y down."""
    turn = np.linspace(0, 2 * np.pi, 73)[:-1]
    if shape in ("ball", "ring"):
        return np.stack([np.cos(turn), np.sin(turn)], 1)
    if shape == "bar":
        return np.array([(-1.05, -0.36), (1.05, -0.36), (1.05, 0.36), (-1.05, 0.36)])
    if shape == "pole":
        return _outline("bar")[:, ::-1]
    if shape == "cross":
        a, b = 0.38, 0.97
        quarter = np.array([(a, -b), (a, -a), (b, -a)])
        return np.concatenate([quarter @ np.array([(c, s), (-s, c)]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))])
    raise KeyError(shape)


@lru_cache(maxsize=16)
def _sprite(shape: str) -> Floats:
    """Return the signed distance map of a shape in half sides, negative inside."""
    axis = np.linspace(-_REACH, _REACH, _SPRITE)
    x, y = np.meshgrid(axis, axis)
    points = np.stack([x, y], -1)[:, :, None, :]
    start = _outline(shape)
    edge = np.roll(start, -1, 0) - start
    along = np.clip(((points - start) * edge).sum(-1) / (edge**2).sum(-1), 0, 1)
    distance = np.sqrt(((points - start - along[..., None] * edge) ** 2).sum(-1)).min(-1)
    y0, y1 = start[:, 1], np.roll(start[:, 1], -1)
    crosses = (y0 <= y[..., None]) != (y1 <= y[..., None])
    at = start[:, 0] + edge[:, 0] * (y[..., None] - y0) / np.where(edge[:, 1] == 0, 1, edge[:, 1])
    inside = (crosses & (x[..., None] < at)).sum(-1) % 2 == 1
    body = np.where(inside, -distance, distance)
    if shape == "ring":
        body = np.maximum(body, _HOLE - np.hypot(x, y))
    return body.astype(np.float32)


def _sample(distances: Floats, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> Floats:
    """Interpolate a map bilinearly on the grid of xs and ys (in half sides)."""

    def weights(values: NDArray[np.float64]) -> tuple[NDArray[np.intp], Floats]:
        position = np.clip((values + _REACH) / (2 * _REACH) * (_SPRITE - 1), 0, _SPRITE - 1.001)
        left = position.astype(np.intp)
        return left, (position - left).astype(np.float32)

    ix, fx = weights(xs)
    iy, fy = weights(ys)
    columns = distances[:, ix] * (1 - fx) + distances[:, ix + 1] * fx
    return np.asarray(columns[iy] * (1 - fy)[:, None] + columns[iy + 1] * fy[:, None], dtype=np.float32)


def _stamp(frame: Floats, shape: str, x: float, y: float, side: float, color: str) -> None:
    """Draw one toy into a frame (H, W, 3); center and side are fractions of the frame's side."""
    size = frame.shape[0]
    half = side * size / 2
    x0, x1 = max(int((x * size) - half * _REACH), 0), min(int(x * size + half * _REACH) + 2, size)
    y0, y1 = max(int((y * size) - half * _REACH), 0), min(int(y * size + half * _REACH) + 2, size)
    xs = (np.arange(x0, x1) + 0.5 - x * size) / half
    ys = (np.arange(y0, y1) + 0.5 - y * size) / half
    distance = _sample(_sprite(shape), xs, ys) * np.float32(half)
    ink = np.array((255, 255, 255) if color in _DARK else (30, 30, 40), np.float32)
    fill = np.array(RGB[color], np.float32)
    patch = frame[y0:y1, x0:x1]
    rim = np.float32(max(0.045 * half, 0.6))
    # The rim separates the toy from a background of the same color.
    for distances, paint in ((distance, ink), (distance + rim, fill)):
        alpha = np.clip(0.5 - distances, 0, 1)[..., None]
        patch += alpha * (paint - patch)


# --- settings ---------------------------------------------------------------------------------------------


def background(setting: str, size: int, rng: np.random.Generator) -> Floats:
    """Draw the background (H, W, 3) of a film, in pale colors so that all toys are visible."""
    y, x = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size, indexing="ij")
    unit = 1 / size
    picture = np.empty((size, size, 3), np.float32)

    def wash(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> None:
        a, b = np.array(top, np.float32), np.array(bottom, np.float32)
        picture[:] = a + (b - a) * y[..., None].astype(np.float32)

    def paint(
        distance: NDArray[np.float64], color: tuple[int, int, int], strength: float = 1.0, box: Box = (slice(None), slice(None))
    ) -> None:
        alpha = (strength * np.clip(0.5 - distance / unit, 0, 1)).astype(np.float32)[..., None]
        picture[box] += alpha * (np.array(color, np.float32) - picture[box])

    def around(cx: float, cy: float, reach: float) -> Box:
        """Return the pixels within `reach` of a point, which are all that a small shape changes."""
        return span(cy, reach), span(cx, reach)

    def span(center: float, reach: float) -> slice:
        return slice(max(int((center - reach) * size) - 1, 0), int((center + reach) * size) + 2)

    if setting == "meadow":
        wash((198, 232, 160), (150, 205, 105))
        for _ in range(26):
            cx, cy, h = rng.random(), rng.random(), rng.uniform(0.03, 0.06)
            box = around(cx, cy, h)
            rise = y[box] - cy
            blade = np.maximum(np.abs(x[box] - cx) - 0.012 * np.clip((rise + h) / (2 * h), 0, 1), np.abs(rise) - h)
            paint(blade, (112, 172, 74), box=box)
    elif setting == "sea":
        wash((176, 224, 246), (118, 188, 232))
        for row in range(5):
            height = (row + rng.uniform(0.2, 0.8)) / 5
            wave = 0.018 * np.sin(2 * np.pi * (rng.uniform(1.5, 3) * x + rng.random()))
            paint(np.abs(y - height - wave) - 0.012, (224, 244, 253))
    elif setting == "desert":
        wash((252, 232, 190), (236, 200, 138))
        for row in range(3):
            height = 0.3 + 0.25 * row + rng.uniform(-0.05, 0.05)
            dune = 0.06 * np.sin(2 * np.pi * (rng.uniform(0.5, 1.0) * x + rng.random()))
            paint(height + dune - y, (226 - 8 * row, 184 - 10 * row, 120 - 10 * row), 0.6)
    elif setting == "night":
        wash((30, 34, 84), (66, 62, 120))
        for _ in range(24):
            cx, cy, radius = rng.random(), rng.random(), rng.uniform(0.006, 0.012)
            box = around(cx, cy, radius)
            paint(np.hypot(x[box] - cx, y[box] - cy) - radius, (236, 232, 196), box=box)
    else:
        raise KeyError(setting)
    return picture


# --- whole films ------------------------------------------------------------------------------------------


def render(film: Film, size: int, frames: int | None = None) -> NDArray[np.uint8]:
    """Render the RGB frames (T, H, W, 3) of a film, or only its first `frames`."""
    rng = np.random.default_rng(film.seed)
    empty_frame = background(film.setting, size, rng)
    times = film.times()[:frames]
    out = np.empty((len(times), size, size, 3), np.uint8)
    previous: list[tuple[float, float, float, str]] = []
    for t, time in enumerate(times):
        current = [track.at(float(time)) for track in film.tracks]
        if current == previous:  # nothing moved
            out[t] = out[t - 1]
            continue
        frame = empty_frame.copy()
        for track, (x, y, side, color) in zip(film.tracks, current, strict=True):
            _stamp(frame, track.shape, x, y, side, color)
        out[t] = np.clip(frame + 0.5, 0, 255).astype(np.uint8)
        previous = current
    return out
