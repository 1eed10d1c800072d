"""Where each toy of a scene is in each moment of the video, so that no single frame tells what only time shows.

Whatever moves or changes its size runs through the same range one way or the other, so a frame of which one does not
know when it was taken shows the same places and sizes for both ways; the middle frame does so even for those who
know. The coordinate that stands still is spread like the one that moves, so a frame doesn't tell the axis either.
It rains in a third of the video: in each third equally often. What tells is the *order* of the frames.
Lengths are shares of the frame's side, time is a share of the video.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alpro.data.sample.scenes import DIRECTIONS, MOMENTS, Scene, Toy

FRAMES_PER_SECOND = 10
FRAMES = (16, 24)  # shortest and longest video
SIDE = {"small": 0.3, "large": 0.5, "": 0.4}
WAY = (0.4, 0.6)  # how far a toy goes in a video, at most; large toys have less room
GROWTH = (0.26, 0.34)  # by how much a side changes
MARGIN = 0.01


@dataclass(frozen=True, slots=True)
class Course:
    """A quantity over time: `middle` at half time, changing by `way` over the whole video."""

    middle: float
    way: float = 0.0

    def at(self, time: float) -> float:
        """The value at a time in [0, 1]."""
        return self.middle + self.way * (time - 0.5)


@dataclass(frozen=True, slots=True)
class Track:
    """One visible toy over time."""

    shape: str
    color: str
    x: Course
    y: Course
    side: Course

    def at(self, time: float) -> tuple[float, float, float]:
        """Middle x and y, and side, at a time in [0, 1]."""
        return self.x.at(time), self.y.at(time), self.side.at(time)


@dataclass(frozen=True, slots=True)
class Film:
    """All that a video's pixels follow from, apart from decoration and raindrops, which `seed` draws."""

    setting: str
    frames: int
    tracks: tuple[Track, ...]
    seed: int
    rain: str = ""

    def times(self) -> list[float]:
        """The moment of each frame."""
        return [(frame + 0.5) / self.frames for frame in range(self.frames)]

    def rains(self, time: float) -> bool:
        """Whether it rains at a time in [0, 1]."""
        return bool(self.rain) and MOMENTS.index(self.rain) == min(int(3 * time), 2)


def shoot(scene: Scene, rng: np.random.Generator) -> Film:
    """Draw courses for a scene's toys."""
    frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    if scene.kind == "group":
        tracks = _group(scene, rng)
    elif scene.kind == "pair":
        tracks = tuple(_in_lane(toy, rng) for toy in scene.toys)
    else:
        tracks = (_alone(scene.toys[0], rng),)
    return Film(scene.setting, frames, tracks, seed=int(rng.integers(2**32)), rain=scene.rain)


def _going(room: float, forwards: bool, rng: np.random.Generator) -> Course:
    """A way through the middle `room` of the frame, one way or the other: the same places, in the opposite order."""
    way = min(rng.uniform(*WAY), room)
    spare = (room - way) / 2
    return Course(0.5 + rng.uniform(-spare, spare), way if forwards else -way)


def _frozen(course: Course, rng: np.random.Generator) -> Course:
    """A standstill at a random moment of a course."""
    return Course(course.at(rng.random()))


def _side(toy: Toy, middle: float, rng: np.random.Generator) -> Course:
    if toy.motion in ("grow", "shrink"):
        growth = rng.uniform(*GROWTH)
        return Course(middle * rng.uniform(0.95, 1.05), growth if toy.motion == "grow" else -growth)
    return Course(SIDE[toy.size] * rng.uniform(0.94, 1.06))


def _edge(side: Course) -> float:
    """How near to the frame's edge the middle may come."""
    return (side.middle + abs(side.way) / 2) / 2 + MARGIN


def _alone(toy: Toy, rng: np.random.Generator) -> Track:
    side = _side(toy, 0.4, rng)
    edge = _edge(side)
    room = 1 - 2 * edge
    if toy.motion in DIRECTIONS:
        along = _going(room, toy.motion in ("right", "down"), rng)
        across = _frozen(_going(room, True, rng), rng)
        x, y = (along, across) if toy.motion in ("left", "right") else (across, along)
    elif toy.place:
        shift = 0.5 - edge - rng.uniform(0, 0.03)
        dx, dy = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}[toy.place]
        jitter = rng.uniform(-0.03, 0.03)
        x, y = (Course(0.5 + dx * shift + (jitter if dy else 0)), Course(0.5 + dy * shift + (jitter if dx else 0)))
    else:
        x, y = (Course(rng.uniform(edge, 1 - edge)) for _ in range(2))
    return Track(toy.shape, toy.color, x, y, side)


def _in_lane(toy: Toy, rng: np.random.Generator) -> Track:
    """One of two toys, each in its half of the frame."""
    side = _side(toy, 0.3, rng)
    lane = Course(0.5 + (0.25 if toy.place in ("bottom", "right") else -0.25))
    if toy.motion in DIRECTIONS:
        along = _going(1 - 2 * _edge(side), toy.motion in ("right", "down"), rng)
    else:
        along = Course(rng.uniform(0.42, 0.58))  # near the middle: its place is plain to see
    x, y = (along, lane) if toy.place in ("top", "bottom") else (lane, along)
    return Track(toy.shape, toy.color, x, y, side)


def _group(scene: Scene, rng: np.random.Generator) -> tuple[Track, ...]:
    near, far = 0.26, 0.74
    places = {
        2: [[(near, 0.5), (far, 0.5)], [(0.5, near), (0.5, far)], [(near, near), (far, far)], [(far, near), (near, far)]],
        3: [[(near, near), (far, near), (0.5, far)], [(near, far), (far, far), (0.5, near)]],
        4: [[(near, near), (far, near), (near, far), (far, far)]],
    }[scene.count]
    chosen = places[int(rng.integers(len(places)))]
    side = Course(rng.uniform(0.32, 0.38))
    jitter = rng.uniform(-0.04, 0.04, size=(scene.count, 2))
    toy = scene.toys[0]
    return tuple(
        Track(toy.shape, toy.color, Course(x + dx), Course(y + dy), side) for (x, y), (dx, dy) in zip(chosen, jitter, strict=True)
    )
