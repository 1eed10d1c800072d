"""Frame selection: which frames of a video are read (paper, section 4.1)."""

from __future__ import annotations

import random
from typing import Literal

from alpro.errors import DataError

Strategy = Literal["uniform", "uniform_floor", "random", "headtail"]
DRAWN: tuple[Strategy, ...] = ("random", "headtail")  # these draw other frames in each epoch


def frame_indices(total: int, count: int, strategy: Strategy, rng: random.Random | None = None) -> list[int]:
    """Select `count` of `total` frames and return their indices in ascending order.

    - `uniform`: the center of each of `count` equal segments of the clip.
    - `uniform_floor`: i * floor(total / count), as in the released code. It misses the end of the clip.
    - `random`: drawn without replacement, sorted.
    - `headtail`: one half drawn from each half of the clip; the first half gives the extra frame of an odd `count`.

    If there are fewer frames than needed (for `headtail`: in one half), they are repeated evenly by the rule of
    `uniform`. `random` and `headtail` need `rng`. Raises DataError if there is no frame at all.
    """
    if total < 1:
        raise DataError("the video has no frames")
    if strategy == "uniform":
        return _spread(0, total, count)
    if strategy == "uniform_floor":
        return [i * (total // count) for i in range(count)]
    if rng is None:
        raise ValueError(f"strategy {strategy!r} draws frames and needs `rng`")
    if strategy == "random":
        return _draw(0, total, count, rng)
    if strategy == "headtail":
        half = total // 2
        tail = count // 2
        head = _draw(0, half, count - tail, rng) if half else [0] * (count - tail)
        return head + _draw(half, total, tail, rng)
    raise ValueError(f"unknown frame strategy {strategy!r}")


def candidate_indices(total: int, count: int) -> list[int]:
    """Select `count` evenly spaced frames, or all frames of a clip that has fewer. Raises DataError if there is none."""
    return frame_indices(total, min(total, count), "uniform")


def _spread(start: int, stop: int, count: int) -> list[int]:
    length = stop - start
    return [start + (2 * i + 1) * length // (2 * count) for i in range(count)]


def _draw(start: int, stop: int, count: int, rng: random.Random) -> list[int]:
    if stop - start < count:
        return _spread(start, stop, count)
    return sorted(rng.sample(range(start, stop), count))
