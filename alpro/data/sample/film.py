"""Position, size and color of each toy over time, chosen so that a single frame does not reveal the motion.

Toys move from cell to cell of a board. The cells have the size of a small model's patches, so a patch shows a whole shape.
A motion or change of size has an odd number of equal steps, so its middle frame is the same in both directions. A change of
color goes between two colors of equal frequency, so a frame does not reveal whether the change was early or late. Lengths are
in cells; time runs from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpro.data.sample.scenes import DIRECTIONS, Scene, Toy

FRAMES_PER_SECOND = 10
FRAMES = (16, 24)  # shortest and longest video
CELLS = 3  # along a side of the frame
SIDE = {"small": 0.6, "large": 1.0, "": 0.8}
GROWN = (0.4, 1.0)  # smallest and largest side of a toy that grows or shrinks
LOW, CENTER, HIGH = 0.5, CELLS / 2, CELLS - 0.5  # centers of the first, middle and last cell
MOMENT = {"start": 0.25, "middle": 0.5, "end": 0.75}


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A quantity over time, from `first` to `last` in an odd number of equal steps; with one step it is constant."""

    first: float
    last: float
    stops: int = 1

    def at(self, time: float) -> float:
        """Return the value at a time in [0, 1]."""
        if self.stops == 1:
            return self.first
        stop = min(int(time * self.stops), self.stops - 1)
        return self.first + (self.last - self.first) * stop / (self.stops - 1)

    @property
    def largest(self) -> float:
        """Largest value over the video."""
        return max(self.first, self.last)


@dataclass(frozen=True, slots=True)
class Track:
    """One visible toy over time."""

    shape: str
    color: str
    x: Trajectory
    y: Trajectory
    side: Trajectory
    later: str = ""
    changes_at: float = 2.0  # never

    def at(self, time: float) -> tuple[float, float, float, str]:
        """Return center x, center y and side, as fractions of the frame's side, and the color, at a time in [0, 1]."""
        color = self.later if time >= self.changes_at else self.color
        return self.x.at(time) / CELLS, self.y.at(time) / CELLS, self.side.at(time) / CELLS, color


@dataclass(frozen=True, slots=True)
class Film:
    """Everything that determines a video's pixels; `seed` draws the decoration of the setting."""

    setting: str
    frames: int
    tracks: tuple[Track, ...]
    seed: int

    def times(self) -> NDArray[np.float64]:
        """Return the time of each frame, in [0, 1]."""
        return (np.arange(self.frames) + 0.5) / self.frames


def make_film(scene: Scene, rng: np.random.Generator) -> Film:
    """Draw trajectories for a scene's toys."""
    frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    if scene.kind == "group":
        tracks = _group(scene, rng)
    elif scene.kind == "pair":
        tracks = tuple(_one_of_pair(toy, rng) for toy in scene.toys)
    else:
        tracks = (_single(scene.toys[0], rng),)
    return Film(scene.setting, frames, tracks, seed=int(rng.integers(2**32)))


def _constant(value: float) -> Trajectory:
    return Trajectory(value, value)


def _crossing(backwards: bool) -> Trajectory:
    """Cross all cells; their number is odd, so the middle frame shows the center cell."""
    return Trajectory(*((HIGH, LOW) if backwards else (LOW, HIGH)), CELLS)


def _random_cell(rng: np.random.Generator) -> Trajectory:
    """Rest in a random cell."""
    return _constant(LOW + int(rng.integers(CELLS)))


def _track(toy: Toy, x: Trajectory, y: Trajectory, side: Trajectory, rng: np.random.Generator) -> Track:
    if not toy.moment:
        return Track(toy.shape, toy.color, x, y, side)
    return Track(toy.shape, toy.color, x, y, side, toy.later, MOMENT[toy.moment] + rng.uniform(-0.03, 0.03))


def _side(toy: Toy) -> Trajectory:
    if toy.motion in ("grow", "shrink"):
        return Trajectory(*(GROWN if toy.motion == "grow" else GROWN[::-1]), 3)
    return _constant(SIDE[toy.size])


def _single(toy: Toy, rng: np.random.Generator) -> Track:
    side = _side(toy)
    low, center, high = LOW, CENTER, HIGH
    if toy.motion in DIRECTIONS:  # the middle frame shows the center, so it reveals neither direction nor axis
        along, across = _crossing(toy.motion in ("left", "up")), _constant(center)
        x, y = (along, across) if toy.motion in ("left", "right") else (across, along)
    elif toy.place:
        places = {"left": (low, center), "right": (high, center), "top": (center, low), "bottom": (center, high)}
        x, y = (_constant(value) for value in places.get(toy.place, (center, center)))
    else:
        x, y = _random_cell(rng), _random_cell(rng)
    return _track(toy, x, y, side, rng)


def _one_of_pair(toy: Toy, rng: np.random.Generator) -> Track:
    """Place one of two toys in its half of the frame; both have the same distribution along it."""
    side = _side(toy)
    lane = _constant(HIGH if toy.place in ("bottom", "right") else LOW)
    # a toy that rests does so in the middle: in a corner it would be as much at the left as at the top
    along = _crossing(toy.motion in ("left", "up")) if toy.motion in DIRECTIONS else _constant(CENTER)
    x, y = (along, lane) if toy.place in ("top", "bottom") else (lane, along)
    return _track(toy, x, y, side, rng)


def _group(scene: Scene, rng: np.random.Generator) -> tuple[Track, ...]:
    near, center, far = LOW, CENTER, HIGH
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
    return tuple(_track(scene.toys[0], _constant(x), _constant(y), _side(scene.toys[0]), rng) for x, y in chosen)
