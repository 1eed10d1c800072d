"""The scenes of the made data: which toys, where, in which setting, doing what; and which description fits which scene.

A scene is drawn so that a balanced number of each color, shape, motion... comes out (`Cards`). A *telling* is a
scene with blanks: what a caption says of a scene. `fits` decides whether a caption also describes another scene.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, TypeVar

import numpy as np

Card = TypeVar("Card")

SHAPES = ("ball", "ring", "bar", "pole", "cross")  # told apart by where their mass lies: a small ViT sees no fine outline
COLORS = ("red", "yellow", "green", "blue")
SETTINGS = ("meadow", "sea", "desert", "night")
DIRECTIONS = ("left", "right", "up", "down")
SIZES = ("small", "large")
PLACES = ("left", "right", "top", "bottom", "middle")
MOMENTS = ("start", "middle", "end")

# How often each kind of scene and each motion is dealt: the decks hold these cards. Half of the questions are on what only time
# shows. Most of those are on changes of color, which a model of this size learns in minutes; where a toy goes to it does not.
_KINDS = ("single",) * 14 + ("pair",) * 4 + ("group",) * 2
_SINGLE_MOTIONS = DIRECTIONS * 2 + ("grow", "shrink") * 2 + ("still",) * 6 + ("change",) * 12
_PAIR_MOTIONS = ("opposite",) * 3 + ("sizes",) * 3 + ("change",) * 7 + ("still",) * 4


@dataclass(frozen=True, slots=True)
class Toy:
    """One toy; an empty field says that the scene has no such thing, or, in a telling, that it isn't told."""

    shape: str
    color: str
    motion: str = "still"  # still, left, right, up, down, grow, shrink, or change (of color)
    size: str = ""  # small, large; empty where the size changes, or where toys share the frame
    place: str = ""  # left, right, top, bottom, middle; empty where the toy roams over the frame
    later: str = ""  # the color that it takes, when it changes color
    moment: str = ""  # when it does: start, middle, end


@dataclass(frozen=True, slots=True)
class Scene:
    """What a video shows: one toy, two different ones, or a group of `count` equal ones."""

    setting: str
    toys: tuple[Toy, ...]
    count: int = 1  # of the one toy in `toys`; two different toys have count 1 each

    @property
    def kind(self) -> str:
        """single, pair or group."""
        return "pair" if len(self.toys) == 2 else "group" if self.count > 1 else "single"

    @property
    def number(self) -> int:
        """How many toys there are to see."""
        return self.count if len(self.toys) == 1 else len(self.toys)


class Cards:
    """Decks of options: every option comes equally often, in an order that can't be guessed."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._decks: dict[str, list[Any]] = {}

    def deal(self, deck: str, options: Sequence[Card], but: Iterable[Card] = ()) -> Card:
        """The next card of a deck; cards in `but` stay in it for later."""
        left = self._decks.setdefault(deck, [])
        refused = set(but)
        place = next((i for i in reversed(range(len(left))) if left[i] not in refused), None)
        if place is None:
            left[:0] = [options[i] for i in self.rng.permutation(len(options))]
            place = next(i for i in reversed(range(len(left))) if left[i] not in refused)
        return left.pop(place)


def draw(cards: Cards, moving: bool = True) -> Scene:
    """A scene; without `moving`, one that a still image can show."""
    kind = cards.deal("kind", _KINDS)
    setting = cards.deal("setting", SETTINGS)
    if kind == "group":
        toy = Toy(cards.deal("shape", SHAPES), cards.deal("color", COLORS))
        return Scene(setting, (toy,), count=cards.deal("count", (2, 3, 4)))
    if kind == "pair":
        return Scene(setting, _pair(cards, cards.deal("pair", _PAIR_MOTIONS) if moving else "still"))
    motion = cards.deal("motion", _SINGLE_MOTIONS) if moving else "still"
    toy = Toy(cards.deal("shape", SHAPES), cards.deal("color", COLORS), motion)
    if motion in ("grow", "shrink"):
        return Scene(setting, (toy,))
    toy = replace(toy, size=cards.deal("size", SIZES))
    if motion == "still":
        toy = replace(toy, place=cards.deal("place", PLACES))
    if motion == "change":
        toy = _changing(cards, toy, {toy.color})
    return Scene(setting, (toy,))


def _pair(cards: Cards, program: str) -> tuple[Toy, Toy]:
    """Two toys that differ in shape and color, side by side or one above the other.

    Where one of them does something that is asked about, the other does the opposite, or looks the same in any
    single frame: so a frame never tells which of the two it is.
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


# --- which telling fits which scene -----------------------------------------------------------------------


def fits(telling: Scene, scene: Scene) -> bool:
    """Whether everything told is so in the scene; a telling of one toy also fits a scene with more toys."""
    if telling.setting and telling.setting != scene.setting:
        return False
    if telling.count > 1 and telling.count != scene.count:
        return False
    if len(telling.toys) > len(scene.toys):
        return False
    return any(
        all(_same(told, toy) for told, toy in zip(telling.toys, order, strict=True))
        for order in permutations(scene.toys, len(telling.toys))
    )


def _same(told: Toy, toy: Toy) -> bool:
    return all(
        not want or want == got
        for want, got in (
            (told.shape, toy.shape),
            (told.color, toy.color),
            (told.motion, toy.motion),
            (told.size, toy.size),
            (told.place, toy.place),
            (told.later, toy.later),
            (told.moment, toy.moment),
        )
    )


class Tellings:
    """What was told so far, found fast by setting, shape and color: `describe(scene)` says whether any of it fits."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str, str], list[Scene]] = defaultdict(list)

    def add(self, telling: Scene) -> None:
        """Remember a telling; it must tell the setting, and the first toy's shape and color."""
        self._by_key[telling.setting, telling.toys[0].shape, telling.toys[0].color].append(telling)

    def describe(self, scene: Scene) -> bool:
        """Whether one of the tellings fits the scene."""
        return any(
            fits(telling, scene)
            for toy in scene.toys
            for telling in self._by_key.get((scene.setting, toy.shape, toy.color), ())
        )


class Scenes:
    """Scenes shown so far: `shows(telling)` says whether one of them fits a telling."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str, str], list[Scene]] = defaultdict(list)

    def add(self, scene: Scene) -> None:
        """Remember a scene."""
        for toy in scene.toys:
            self._by_key[scene.setting, toy.shape, toy.color].append(scene)

    def shows(self, telling: Scene) -> bool:
        """Whether the telling fits one of the scenes."""
        first = telling.toys[0]
        return any(fits(telling, scene) for scene in self._by_key.get((telling.setting, first.shape, first.color), ()))
