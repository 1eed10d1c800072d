"""Questions about a scene with one-word answers, of the five types what, who, how, where and when.

A question needs motion to answer (`is_motion_question`) if it contains a word about going, changing, growing or turning. The
scenes are drawn so that a single frame reveals nothing about these answers (see `film`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from alpro.data.sample.scenes import DIRECTIONS, Scene, Toy
from alpro.data.sample.words import COUNT_WORDS, PLURALS

TYPES = ("what", "who", "how", "where", "when")
MOTION_WORDS = frozenset(
    ("go", "goes", "going", "move", "moves", "direction", "grows", "shrinks", "change", "changes", "turn", "bigger", "smaller")
)


@dataclass(frozen=True, slots=True)
class GeneratedQuestion:
    """A question with its answer; `family` is its topic."""

    family: str
    text: str
    answer: str

    @property
    def type(self) -> str:
        """Official type: the question's first word."""
        return self.text.split(" ", 1)[0]


def is_motion_question(text: str) -> bool:
    """Return True if a question of the sample data needs more than one frame, i.e. contains one of MOTION_WORDS."""
    return not MOTION_WORDS.isdisjoint(text.lower().rstrip("?").split())


_ASK: dict[str, tuple[str, ...]] = {
    "color": ("what color is the {toy}?", "what is the color of the {toy}?"),
    "colors": ("what color are the {toys}?", "what is the color of the {toys}?"),
    "shape": ("what is the {color} toy?", "what kind of toy is {color}?"),
    "setting": ("what is in the background?", "what place is this?", "what is the background?"),
    "direction": ("what direction does the {toy} move in?", "what direction does the {toy} go in?"),
    "later": ("what color does the {toy} turn?", "what color does the {toy} change to?"),
    "who is": ("who is {color}?", "who has the color {color}?"),
    "who is at": ("who is at the {place}?",),
    "who goes": ("who moves {motion}?", "who goes {motion}?", "who is going {motion}?"),
    "who grows": ("who grows?", "who gets bigger?"),
    "who shrinks": ("who shrinks?", "who gets smaller?"),
    "who changes": (
        "who changes color?",
        "who changes its color?",
    ),  # with the color, one frame would do
    "number": ("how many toys are there?", "how many toys do we see?"),
    "number of": ("how many {toys} are there?", "how many {toys} do we see?"),
    "size": ("how big is the {toy}?", "how large is the {toy}?"),
    "size change": ("how does the size of the {toy} change?", "how does the {toy} change its size?"),
    "place": ("where is the {toy}?", "where do we see the {toy}?"),
    "goal": ("where does the {toy} go?", "where is the {toy} going?", "where does the {toy} move?"),
    "moment": ("when does the {toy} change color?", "when does the {toy} change its color?"),
}
# Families with motion words are asked first, because they are fewer than the others.
MOTION_FAMILIES = ("direction", "later", "who goes", "who grows", "who shrinks", "who changes", "size change", "goal", "moment")


def _candidates(scene: Scene) -> list[tuple[str, Toy, str]]:
    """Return all possible questions as (family, the toy that the question names, answer)."""
    first = scene.toys[0]
    candidates = [("setting", first, scene.setting), ("number", first, COUNT_WORDS[scene.number])]
    if scene.kind == "group":
        return [*candidates, ("number of", first, COUNT_WORDS[scene.count]), ("colors", first, first.color)]
    for toy in scene.toys:
        if toy.motion != "change":
            candidates += [("color", toy, toy.color), ("shape", toy, toy.shape), ("who is", toy, toy.shape)]
        if toy.size:
            candidates.append(("size", toy, toy.size))
        if toy.place and toy.motion not in DIRECTIONS:
            candidates.append(("place", toy, toy.place))
        if toy.motion == "change":
            candidates += [("moment", toy, toy.moment), ("later", toy, toy.later)]
    if scene.kind == "single":
        if first.motion in DIRECTIONS:
            candidates += [("direction", first, first.motion), ("goal", first, first.motion)]
        if first.motion in ("grow", "shrink"):
            candidates.append(("size change", first, "bigger" if first.motion == "grow" else "smaller"))
        return candidates
    families = {"grow": "who grows", "shrink": "who shrinks", "change": "who changes"}
    for toy in scene.toys:
        if toy.motion != "still":
            candidates.append((families.get(toy.motion, "who goes"), toy, toy.shape))
        if toy.motion not in DIRECTIONS:
            candidates.append(("who is at", toy, toy.shape))
        if toy.motion in ("grow", "shrink"):
            candidates.append(("size change", toy, "bigger" if toy.motion == "grow" else "smaller"))
    return candidates


class QuestionGenerator:
    """Draws the questions of a split, balancing the types and the answers within each family."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._answers: Counter[tuple[str, str]] = Counter()
        self._families: Counter[str] = Counter()

    def draw(self, scene: Scene, number: int) -> list[GeneratedQuestion]:
        """Draw different questions about a scene: those about motion first, then the rarest families and answers."""
        candidates = _candidates(scene)
        order = [candidates[i] for i in self.rng.permutation(len(candidates))]
        chosen: list[GeneratedQuestion] = []
        while order and len(chosen) < number:
            best = min(order, key=self._rank)
            order.remove(best)
            family, toy, answer = best
            self._families[family] += 1
            self._answers[family, answer] += 1
            chosen.append(GeneratedQuestion(family, self._phrase(family, toy), answer))
        return [chosen[i] for i in self.rng.permutation(len(chosen))]

    def _rank(self, candidate: tuple[str, Toy, str]) -> tuple[bool, int, int]:
        family, _, answer = candidate
        return family not in MOTION_FAMILIES, self._answers[family, answer], self._families[family]

    def _phrase(self, family: str, toy: Toy) -> str:
        texts = _ASK[family]
        text = texts[int(self.rng.integers(len(texts)))]
        return text.format(toy=toy.shape, toys=PLURALS[toy.shape], color=toy.color, place=toy.place, motion=toy.motion)
