"""Scenes of the sample data: toys, their places and motions, and a setting; and which descriptions fit which scene.

Scenes are drawn with balanced numbers of each color, shape, motion and so on (`Cards`). A *description* is a scene with empty
fields for what a caption does not mention; `fits` decides if it also describes another scene.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, TypeVar

import numpy as np

Card = TypeVar("Card")

SHAPES = (
    "ball",
    "ring",
    "bar",
    "pole",
    "cross",
)  # of distinct mass distributions: a small ViT sees no fine outlines
COLORS = ("red", "yellow", "green", "blue")
SETTINGS = ("meadow", "sea", "desert", "night")
DIRECTIONS = ("left", "right", "up", "down")
SIZES = ("small", "large")
PLACES = ("left", "right", "top", "bottom", "middle")
MOMENTS = ("start", "middle", "end")

# Frequencies of the kinds of scene and of the motions: the decks hold these cards. Half of the questions are about motion, and
# every toy that does not travel has a place: a model learns what is where, and what goes where, only if many texts say it.
_KINDS = ("single",) * 16 + ("pair",) * 3 + ("group",) * 1
_SINGLE_MOTIONS = DIRECTIONS * 4 + ("grow", "shrink") * 2 + ("still",) * 4 + ("change",) * 8
_PAIR_MOTIONS = ("opposite",) * 3 + ("sizes",) * 3 + ("change",) * 7 + ("still",) * 4


@dataclass(frozen=True, slots=True)
class Toy:
    """One toy; an empty field is absent from the scene or, in a description, not mentioned."""

    shape: str
    color: str
    motion: str = "still"  # still, left, right, up, down, grow, shrink, or change (of color)
    size: str = ""  # small, large; empty if the size changes or toys share the frame
    place: str = ""  # left, right, top, bottom, middle; empty if the toy is not bound to a place
    later: str = ""  # the new color, if it changes color
    moment: str = ""  # time of the change of color: start, middle, end


@dataclass(frozen=True, slots=True)
class Scene:
    """Content of a video: one toy, two different ones, or a group of `count` equal ones."""

    setting: str
    toys: tuple[Toy, ...]
    count: int = 1  # of the one toy in `toys`; two different toys have count 1 each

    @property
    def kind(self) -> str:
        """Kind of scene: single, pair or group."""
        return "pair" if len(self.toys) == 2 else "group" if self.count > 1 else "single"

    @property
    def number(self) -> int:
        """Number of visible toys."""
        return self.count if len(self.toys) == 1 else len(self.toys)


class Cards:
    """Shuffled decks of options: every option is dealt equally often, in random order."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._decks: dict[str, list[Any]] = {}

    def deal(self, deck: str, options: Sequence[Card], but: Iterable[Card] = ()) -> Card:
        """Return the next card of a deck; cards in `but` stay in it for later."""
        left = self._decks.setdefault(deck, [])
        excluded = set(but)
        position = next((i for i in reversed(range(len(left))) if left[i] not in excluded), None)
        if position is None:
            left[:0] = [options[i] for i in self.rng.permutation(len(options))]
            position = next(i for i in reversed(range(len(left))) if left[i] not in excluded)
        return left.pop(position)


def draw(cards: Cards, moving: bool = True) -> Scene:
    """Draw a scene; without `moving`, one that a still image can show."""
    kind = cards.deal("kind", _KINDS)
    setting = cards.deal("setting", SETTINGS)
    if kind == "group":
        toy = Toy(cards.deal("shape", SHAPES), cards.deal("color", COLORS))
        return Scene(setting, (toy,), count=cards.deal("count", (2, 3, 4)))
    if kind == "pair":
        return Scene(setting, _pair(cards, cards.deal("pair", _PAIR_MOTIONS) if moving else "still"))
    motion = cards.deal("motion", _SINGLE_MOTIONS) if moving else "still"
    toy = Toy(cards.deal("shape", SHAPES), cards.deal("color", COLORS), motion)
    if motion not in DIRECTIONS:
        toy = replace(toy, place=cards.deal("place", PLACES))
    if motion in ("grow", "shrink"):
        return Scene(setting, (toy,))
    toy = replace(toy, size=cards.deal("size", SIZES))
    if motion == "change":
        toy = _changing(cards, toy, {toy.color})
    return Scene(setting, (toy,))


def _pair(cards: Cards, program: str) -> tuple[Toy, Toy]:
    """Draw two toys that differ in shape and color, side by side or one above the other.

    If a question can be about the motion of one toy, the other does the opposite or looks the same in any single frame. So a
    frame never reveals which of the two is meant.
    """
    rows = cards.deal("rows", (True, False))
    first = Toy(cards.deal("shape", SHAPES), cards.deal("color", COLORS), place="top" if rows else "left")
    second = Toy(
        cards.deal("shape", SHAPES, but={first.shape}),
        cards.deal("color", COLORS, but={first.color}),
        place="bottom" if rows else "right",
    )
    swap = cards.deal("swap", (True, False))
    if program == "change":
        taken = {first.color, second.color}
        if swap:
            return first, _changing(cards, second, taken)
        return _changing(cards, first, taken), second
    motions = {
        "opposite": ("left", "right") if rows else ("up", "down"),
        "sizes": ("grow", "shrink"),
        "still": ("still", "still"),
    }[program]
    if swap:
        motions = motions[::-1]
    return replace(first, motion=motions[0]), replace(second, motion=motions[1])


def _changing(cards: Cards, toy: Toy, taken: set[str]) -> Toy:
    later = cards.deal("later", COLORS, but=taken)
    return replace(toy, motion="change", later=later, moment=cards.deal("moment", MOMENTS))


# --- which description fits which scene -------------------------------------------------------------------


def fits(description: Scene, scene: Scene) -> bool:
    """Return True if everything in the description holds in the scene; one toy also fits a scene with more toys."""
    if description.setting and description.setting != scene.setting:
        return False
    if description.count > 1 and description.count != scene.count:
        return False
    if len(description.toys) > len(scene.toys):
        return False
    return any(
        all(_agrees(described, toy) for described, toy in zip(description.toys, order, strict=True))
        for order in permutations(scene.toys, len(description.toys))
    )


def _agrees(described: Toy, toy: Toy) -> bool:
    return all(
        not expected or expected == actual
        for expected, actual in (
            (described.shape, toy.shape),
            (described.color, toy.color),
            (described.motion, toy.motion),
            (described.size, toy.size),
            (described.place, toy.place),
            (described.later, toy.later),
            (described.moment, toy.moment),
        )
    )


class Descriptions:
    """Descriptions, indexed by setting, shape and color."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str, str], list[Scene]] = defaultdict(list)

    def add(self, description: Scene) -> None:
        """Add a description; it must contain the setting, and the first toy's shape and color."""
        self._by_key[description.setting, description.toys[0].shape, description.toys[0].color].append(description)

    def fit(self, scene: Scene) -> bool:
        """Return True if one of the descriptions fits the scene."""
        return any(
            fits(description, scene)
            for toy in scene.toys
            for description in self._by_key.get((scene.setting, toy.shape, toy.color), ())
        )


class Scenes:
    """Scenes, indexed by setting, shape and color."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str, str], list[Scene]] = defaultdict(list)

    def add(self, scene: Scene) -> None:
        """Add a scene."""
        for toy in scene.toys:
            self._by_key[scene.setting, toy.shape, toy.color].append(scene)

    def fit(self, description: Scene) -> bool:
        """Return True if the description fits one of the scenes."""
        first = description.toys[0]
        return any(fits(description, scene) for scene in self._by_key.get((description.setting, first.shape, first.color), ()))
