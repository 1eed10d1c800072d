"""Where each toy of a scene is in each moment of the video, so that its middle frame does not tell what only time shows.

Toys hop from cell to cell of a board, so that a small model's patches, which have the cells' size, show each shape whole.
Whatever moves or changes its size does so in an odd number of even stops, and is at half time where it would be had it
gone the other way: the middle frame can't tell left from right, nor growing from shrinking. A change of color goes between
two colors drawn alike, so that a frame doesn't tell whether it was early or late. Lengths are in cells, time is a share of
the video.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpro.data.sample.scenes import DIRECTIONS, Scene, Toy

FRAMES_PER_SECOND = 10
FRAMES = (16, 24)  # shortest and longest video
CELLS = 5  # along a side of the frame
SIDE = {"small": 1, "large": 3, "": 1}
GROWN = {"single": 3, "pair": 2}  # a size that changes goes between one cell and so many
MOMENT = {"start": 0.25, "middle": 0.5, "end": 0.75}


@dataclass(frozen=True, slots=True)
class Course:
    """A quantity over time: from `first` to `last` in even stops, an odd number of them; one stop stands still."""

    first: float
    last: float
    stops: int = 1

    def at(self, time: float) -> float:
        """The value at a time in [0, 1]."""
        if self.stops == 1:
            return self.first
        stop = min(int(time * self.stops), self.stops - 1)
        return self.first + (self.last - self.first) * stop / (self.stops - 1)

    @property
    def largest(self) -> float:
        """The highest value of the video."""
        return max(self.first, self.last)


@dataclass(frozen=True, slots=True)
class Track:
    """One visible toy over time."""

    shape: str
    color: str
    x: Course
    y: Course
    side: Course
    later: str = ""
    changes_at: float = 2.0  # never

    def at(self, time: float) -> tuple[float, float, float, str]:
        """Middle x and y and side, as shares of the frame's side, and color at a time in [0, 1]."""
        color = self.later if time >= self.changes_at else self.color
        return self.x.at(time) / CELLS, self.y.at(time) / CELLS, self.side.at(time) / CELLS, color


@dataclass(frozen=True, slots=True)
class Film:
    """All that a video's pixels follow from, apart from the setting's decoration, which `seed` draws."""

    setting: str
    frames: int
    tracks: tuple[Track, ...]
    seed: int

    def times(self) -> NDArray[np.float64]:
        """The moment of each frame."""
        return (np.arange(self.frames) + 0.5) / self.frames


def shoot(scene: Scene, rng: np.random.Generator) -> Film:
    """Draw courses for a scene's toys."""
    frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    if scene.kind == "group":
        tracks = _group(scene, rng)
    elif scene.kind == "pair":
        tracks = tuple(_in_lane(toy, rng) for toy in scene.toys)
    else:
        tracks = (_alone(scene.toys[0], rng),)
    return Film(scene.setting, frames, tracks, seed=int(rng.integers(2**32)))


def _stay(value: float) -> Course:
    return Course(value, value)


def _run(low: float, high: float, backwards: bool) -> Course:
    """Through all cells from `low` to `high`, an even number apart: at half time in the middle, whichever way."""
    ends = (low, high)
    return Course(*(ends[::-1] if backwards else ends), int(high - low) + 1)


def _any(low: float, high: float, rng: np.random.Generator) -> Course:
    """In one of the cells, standing still."""
    return _stay(low + int(rng.integers(int(high - low) + 1)))


def _track(toy: Toy, x: Course, y: Course, side: Course, rng: np.random.Generator) -> Track:
    if not toy.moment:
        return Track(toy.shape, toy.color, x, y, side)
    return Track(toy.shape, toy.color, x, y, side, toy.later, MOMENT[toy.moment] + rng.uniform(-0.03, 0.03))


def _side(toy: Toy, kind: str) -> Course:
    if toy.motion in ("grow", "shrink"):
        ends = (1, GROWN[kind])
        return Course(*(ends if toy.motion == "grow" else ends[::-1]), 3)
    return _stay(SIDE[toy.size])


def _alone(toy: Toy, rng: np.random.Generator) -> Track:
    side = _side(toy, "single")
    low = side.largest / 2
    high, center = CELLS - low, CELLS / 2
    if toy.motion in DIRECTIONS:  # at half time in the center: that tells neither the way nor the axis
        along, across = _run(low, high, toy.motion in ("left", "up")), _stay(center)
        x, y = (along, across) if toy.motion in ("left", "right") else (across, along)
    elif toy.place:
        places = {"left": (low, center), "right": (high, center), "top": (center, low), "bottom": (center, high)}
        x, y = (_stay(value) for value in places.get(toy.place, (center, center)))
    else:
        x, y = _any(low, high, rng), _any(low, high, rng)
    return _track(toy, x, y, side, rng)


def _in_lane(toy: Toy, rng: np.random.Generator) -> Track:
    """One of two toys, each in its half of the frame; both are spread alike along it."""
    side = _side(toy, "pair")
    lane = _stay(3.5 if toy.place in ("bottom", "right") else 1.5)
    moves = toy.motion in DIRECTIONS  # else near the middle, where its place is plain to see
    along = _run(0.5, CELLS - 0.5, toy.motion in ("left", "up")) if moves else _any(1.5, CELLS - 1.5, rng)
    x, y = (along, lane) if toy.place in ("top", "bottom") else (lane, along)
    return _track(toy, x, y, side, rng)


def _group(scene: Scene, rng: np.random.Generator) -> tuple[Track, ...]:
    near, far, center = [0.5, 1.5], [3.5, 4.5], [2.5]
    places = {
        2: [
            [(near, center), (far, center)],
            [(center, near), (center, far)],
            [(near, near), (far, far)],
            [(far, near), (near, far)],
        ],
        3: [[(near, near), (far, near), (center, far)], [(near, far), (far, far), (center, near)]],
        4: [[(near, near), (far, near), (near, far), (far, far)]],
    }[scene.count]
    chosen = places[int(rng.integers(len(places)))]
    return tuple(
        _track(scene.toys[0], _stay(float(rng.choice(x))), _stay(float(rng.choice(y))), _stay(1), rng) for x, y in chosen
    )
