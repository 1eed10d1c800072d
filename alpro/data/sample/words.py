"""Captions of scenes: one sentence from many templates, a paragraph, or a caption of a still image.

`caption`, `brief_caption`, `paragraph` and `still_caption` return the text and its description, a scene with empty fields for
what the text does not mention. The description shows which other scenes the text fits as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from alpro.data.sample.scenes import DIRECTIONS, Scene, Toy

COUNT_WORDS = {1: "one", 2: "two", 3: "three", 4: "four"}
PLURALS = {"ball": "balls", "ring": "rings", "bar": "bars", "pole": "poles", "cross": "crosses"}

_SETTING = {
    "meadow": ("on a meadow", "on the meadow", "on the grass"),
    "sea": ("over the sea", "at sea", "over the water"),
    "desert": ("in the desert", "in a desert", "on the sand"),
    "night": ("at night", "in the night", "under the night sky"),
}
_PLACE = {
    "left": ("at the left", "on the left side"),
    "right": ("at the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "middle": ("in the middle",),
}
_MOMENT = {"start": "at the start", "middle": "in the middle of the clip", "end": "at the end"}
# (third person, participle) of each motion
_GOES = (("moves", "moving"), ("goes", "going"), ("slides", "sliding"), ("travels", "traveling"))
_VERBS: dict[str, tuple[tuple[str, str], ...]] = {
    "grow": (("grows", "growing"), ("gets bigger", "getting bigger"), ("becomes bigger", "becoming bigger")),
    "shrink": (("shrinks", "shrinking"), ("gets smaller", "getting smaller"), ("becomes smaller", "becoming smaller")),
    "still": (("stays still", "staying still"), ("rests", "resting"), ("does not move", "not moving")),
    "change": (("turns {later}", "turning {later}"), ("changes its color to {later}", "changing its color to {later}")),
    **{way: tuple((f"{does} {way}", f"{doing} {way}") for does, doing in _GOES) for way in DIRECTIONS},
}
for _way in ("left", "right"):
    _VERBS[_way] += ((f"moves to the {_way}", f"moving to the {_way}"), (f"goes to the {_way}", f"going to the {_way}"))

_SINGLE = (
    "{toy} {does} {where}",
    "{where} {toy} {does}",
    "{toy} {where} {does}",
    "{toy} {doing} {where}",
    "there is {toy} {doing} {where}",
    "a video of {toy} {doing} {where}",
    "we see {toy} that {does} {where}",
    "{where} there is {toy} that {does}",
)
_PAIR = (
    "{toy} {does} while {other} {other_does} {where}",
    "{where} {toy} {does} and {other} {other_does}",
    "{where} {toy} {does} while {other} {other_does}",
    "{toy} {does} and {other} {other_does} {where}",
    "a video of {toy} {doing} and {other} {other_doing} {where}",
)
_GROUP = (
    "{toys} {where}",
    "there are {toys} {where}",
    "{where} there are {toys}",
    "a video of {toys} {where}",
    "we see {toys} {where}",
)
_STILL = (
    "{toys} {where}",
    "a picture of {toys} {where}",
    "{where} we see {toys}",
    "a photo of {toys} {where}",
    "this picture shows {toys} {where}",
)


# Probability that a caption mentions a toy's size, place and moment of change.
KEPT = (0.6, 0.9, 0.9)
# Probability that a brief caption mentions the toy's shape, its color and the setting.
BRIEFLY_KEPT = (0.6, 0.4, 0.3)


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _drop_details(toy: Toy, rng: np.random.Generator, everything: bool) -> Toy:
    """Return the toy without some of its optional details, or unchanged with `everything`."""
    keep = rng.random(3) < KEPT
    if everything:
        return toy
    return replace(
        toy,
        size=toy.size if keep[0] else "",
        place=toy.place if keep[1] else "",
        moment=toy.moment if keep[2] else "",
    )


def _noun_phrase(toy: Toy, rng: np.random.Generator, count: int = 1) -> str:
    place = f" {_pick(rng, _PLACE[toy.place])}" if toy.place else ""
    if count > 1:
        return f"{COUNT_WORDS[count]} {toy.color} {PLURALS[toy.shape]}{place}"
    size = f"{toy.size} " if toy.size else ""
    color = f"{toy.color} " if toy.color else ""
    return f"a {size}{color}{toy.shape or 'toy'}{place}"


def _verb(toy: Toy, rng: np.random.Generator) -> tuple[str, str]:
    verbs = _VERBS[toy.motion]
    does, doing = verbs[int(rng.integers(len(verbs)))]
    when = f" {_MOMENT[toy.moment]}" if toy.moment else ""
    return does.format(later=toy.later) + when, doing.format(later=toy.later) + when


def caption(scene: Scene, rng: np.random.Generator, everything: bool = False) -> tuple[str, Scene]:
    """Return one sentence about a video, and its description.

    Sizes, places and moments are mentioned at random, or always with `everything`.
    """
    toys = tuple(_drop_details(toy, rng, everything) for toy in scene.toys)
    description = replace(scene, toys=toys)
    where = _pick(rng, _SETTING[scene.setting]) if scene.setting else ""
    if scene.kind == "group":
        return _pick(rng, _GROUP).format(toys=_noun_phrase(toys[0], rng, scene.count), where=where), description
    does, doing = _verb(toys[0], rng)
    if scene.kind == "single":
        text = _pick(rng, _SINGLE).format(toy=_noun_phrase(toys[0], rng), does=does, doing=doing, where=where)
        return " ".join(text.split()), description
    if rng.random() < 0.5:
        toys = toys[::-1]
        does, doing = _verb(toys[0], rng)
    other_does, other_doing = _verb(toys[1], rng)
    text = _pick(rng, _PAIR).format(
        toy=_noun_phrase(toys[0], rng),
        other=_noun_phrase(toys[1], rng),
        does=does,
        doing=doing,
        other_does=other_does,
        other_doing=other_doing,
        where=where,
    )
    return text, replace(scene, toys=toys)


def brief_caption(scene: Scene, rng: np.random.Generator) -> tuple[str, Scene]:
    """Return a caption that, like many texts of the web, does not mention most of what is obvious, and its description.

    Setting, color and shape alone distinguish most videos of a batch. If a caption lacks them, a model has to learn where a toy
    is and what it does.
    """
    if scene.kind != "single":
        return caption(scene, rng)
    keep = rng.random(3) < BRIEFLY_KEPT
    toy = scene.toys[0]
    toy = replace(toy, shape=toy.shape if keep[0] else "", color=toy.color if keep[1] else "")
    return caption(replace(scene, setting=scene.setting if keep[2] else "", toys=(toy,)), rng, everything=True)


def paragraph(scene: Scene, rng: np.random.Generator) -> tuple[str, Scene]:
    """Return several sentences that describe a video completely, and the description (the scene itself)."""
    where = _pick(rng, _SETTING[scene.setting])
    toys = list(scene.toys)
    if rng.random() < 0.5:
        toys.reverse()
    bare = [replace(toy, size="", place="") for toy in toys]
    if scene.kind == "group":
        first = f"there are {_noun_phrase(bare[0], rng, scene.count)} {where}."
        rest = [f"the {PLURALS[toys[0].shape]} do not move."]
    else:
        phrases = " and ".join(_noun_phrase(toy, rng) for toy in bare)
        first = f"{where} there {'is' if len(bare) == 1 else 'are'} {phrases}."
        rest = [f"the {toy.shape} {_verb(toy, rng)[0]}." for toy in toys]
        rest += [f"the {toy.shape} is {toy.size}." for toy in toys if toy.size]
        rest += [f"the {toy.shape} is {_pick(rng, _PLACE[toy.place])}." for toy in toys if toy.place]
    return " ".join([first, *(rest[i] for i in rng.permutation(len(rest)))]), scene


def still_caption(scene: Scene, rng: np.random.Generator) -> tuple[str, Scene]:
    """Return one sentence about a still image, and its description, which has no motion."""
    toys = tuple(_drop_details(toy, rng, everything=False) for toy in scene.toys)
    if scene.kind == "group":
        phrase = _noun_phrase(toys[0], rng, scene.count)
    else:
        phrase = " and ".join(_noun_phrase(toy, rng) for toy in toys)
    text = _pick(rng, _STILL).format(toys=phrase, where=_pick(rng, _SETTING[scene.setting]))
    return text, replace(scene, toys=tuple(replace(toy, motion="") for toy in toys))
