"""Where each toy of a scene is in each moment of the video, so that its middle frame does not tell what only time shows.

Everything that moves or changes its size does so evenly, and is at half time where it would be had it gone the other
way: the middle frame can't tell left from right, nor growing from shrinking. A change of color goes between two colors
drawn alike, so that a frame doesn't tell whether it was early or late. Lengths are shares of the frame's side, time is
a share of the video.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpro.data.sample.scenes import DIRECTIONS, Scene, Toy

FRAMES_PER_SECOND = 10
FRAMES = (16, 24)  # shortest and longest video
TRAVEL = (0.75, 1.0)  # share of the room along its way that a toy runs through in a video
GROWN = (0.16, 0.5)  # range of a size that changes
SIDE = {"small": 0.26, "large": 0.44, "": 0.34}
MOMENT = {"start": 0.25, "middle": 0.5, "end": 0.75}
MARGIN = 0.02


@dataclass(frozen=True, slots=True)
class Course:
    """A quantity over time: it goes evenly by `travel`, and is `middle` at half time."""

    middle: float
    travel: float = 0.0  # in a video; 0 stands still, below 0 goes back

    def at(self, time: float) -> float:
        """The value at a time in [0, 1]."""
        return self.middle + self.travel * (time - 0.5)

    @property
    def largest(self) -> float:
        """The highest value of the video."""
        return self.middle + abs(self.travel) / 2


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
        """Middle x and y, side, and color at a time in [0, 1]."""
        color = self.later if time >= self.changes_at else self.color
        return self.x.at(time), self.y.at(time), self.side.at(time), color


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


def _running(low: float, high: float, backwards: bool, rng: np.random.Generator) -> Course:
    """Through some of a range, one way or the other; where in the range does not hang on the way."""
    travel = (high - low) * rng.uniform(*TRAVEL)
    middle = rng.uniform(low + travel / 2, high - travel / 2)
    return Course(middle, -travel if backwards else travel)


def _track(toy: Toy, x: Course, y: Course, side: Course, rng: np.random.Generator) -> Track:
    if not toy.moment:
        return Track(toy.shape, toy.color, x, y, side)
    return Track(toy.shape, toy.color, x, y, side, toy.later, MOMENT[toy.moment] + rng.uniform(-0.03, 0.03))


def _side(toy: Toy, largest: float, rng: np.random.Generator) -> Course:
    if toy.motion in ("grow", "shrink"):
        return _running(GROWN[0], min(GROWN[1], largest), toy.motion == "shrink", rng)
    return Course(min(SIDE[toy.size] * rng.uniform(0.94, 1.06), largest))


def _alone(toy: Toy, rng: np.random.Generator) -> Track:
    side = _side(toy, 1.0, rng)
    low = side.largest / 2 + MARGIN
    high = 1 - low
    if toy.motion in DIRECTIONS:  # at half time both coordinates are spread alike: that tells neither the way nor the axis
        along = _running(low, high, toy.motion in ("left", "up"), rng)
        across = Course(_running(low, high, False, rng).middle)
        x, y = (along, across) if toy.motion in ("left", "right") else (across, along)
        return _track(toy, x, y, side, rng)
    if not toy.place:
        return _track(toy, Course(rng.uniform(low, high)), Course(rng.uniform(low, high)), side, rng)
    step = 0.5 - low
    dx, dy = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "middle": (0, 0)}[toy.place]
    x0, y0 = 0.5 + dx * step, 0.5 + dy * step
    jitter = rng.uniform(-0.04, 0.04, size=2)
    return _track(toy, Course(_keep(x0 + jitter[0], low)), Course(_keep(y0 + jitter[1], low)), side, rng)


def _in_lane(toy: Toy, rng: np.random.Generator) -> Track:
    """One of two toys, each in its half of the frame; both are spread alike along it."""
    side = _side(toy, 0.46, rng)
    low = side.largest / 2 + MARGIN
    lane = Course(0.5 + (0.24 if toy.place in ("bottom", "right") else -0.24) + rng.uniform(-0.01, 0.01))
    if toy.motion in DIRECTIONS:
        along = _running(low, 1 - low, toy.motion in ("left", "up"), rng)
    else:
        along = Course(rng.uniform(max(low, 0.38), min(1 - low, 0.62)))  # near the middle: its place is plain to see
    x, y = (along, lane) if toy.place in ("top", "bottom") else (lane, along)
    return _track(toy, x, y, side, rng)


def _group(scene: Scene, rng: np.random.Generator) -> tuple[Track, ...]:
    near, far = 0.27, 0.73
    places = {
        2: [[(near, 0.5), (far, 0.5)], [(0.5, near), (0.5, far)], [(near, near), (far, far)], [(far, near), (near, far)]],
        3: [[(near, near), (far, near), (0.5, far)], [(near, far), (far, far), (0.5, near)]],
        4: [[(near, near), (far, near), (near, far), (far, far)]],
    }[scene.count]
    chosen = places[int(rng.integers(len(places)))]
    side = rng.uniform(0.28, 0.36)
    jitter = rng.uniform(-0.06, 0.06, size=(scene.count, 2))
    return tuple(
        _track(scene.toys[0], Course(x + dx), Course(y + dy), Course(side), rng)
        for (x, y), (dx, dy) in zip(chosen, jitter, strict=True)
    )


def _keep(value: float, low: float) -> float:
    return min(max(value, low), 1 - low)
