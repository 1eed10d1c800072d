"""alpro/data/media/frames.py: NEW MODULE."""

from __future__ import annotations

import random
from typing import Literal

from alpro.errors import DataError

Strategy = Literal["uniform", "uniform_floor", "random", "headtail"]


# --- which frames -----------------------------------------------------------------------------------------


def frame_indices(total: int, count: int, strategy: Strategy, rng: random.Random | None = None) -> list[int]:
    """Which `count` of `total` frames are read, in order of time.

    - `uniform`: the centre of each of `count` equal segments of the clip.
    - `uniform_floor`: i * floor(total / count), as the released code: it misses the clip's end.
    - `random`: without replacement, sorted.
    - `headtail`: one half drawn from each half of the clip (the first half gives the odd one).

    Where frames are fewer than wanted (in a half, for `headtail`), each is repeated as evenly as possible: the
    rule of `uniform`, applied to what is there. `rng` is needed by the two that draw.
    Raises DataError when there is no frame at all.
    """
    if total < 1:
        raise DataError("the video has no frames")
    if strategy == "uniform":
        return _spread(0, total, count)
    if strategy == "uniform_floor":
        return [i * (total // count) for i in range(count)]
    if rng is None:
        raise ValueError(f"{strategy!r} draws frames and needs a random source")
    if strategy == "random":
        return _draw(0, total, count, rng)
    if strategy == "headtail":
        half = total // 2
        tail = count // 2
        head = _draw(0, half, count - tail, rng) if half else [0] * (count - tail)
        return head + _draw(half, total, tail, rng)
    raise ValueError(f"no such strategy: {strategy!r}")


def _spread(start: int, stop: int, count: int) -> list[int]:
    length = stop - start
    return [start + (2 * i + 1) * length // (2 * count) for i in range(count)]


def _draw(start: int, stop: int, count: int, rng: random.Random) -> list[int]:
    if stop - start < count:
        return _spread(start, stop, count)
    return sorted(rng.sample(range(start, stop), count))
