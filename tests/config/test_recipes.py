"""The recipes: each line that differs between `official` and `paper` gives the other's value."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alpro.config import load, recipes

RECIPES = Path(__file__).parents[2] / "recipes"
LINE = re.compile(r"^(?P<setting>\s*\w+: (?P<value>.+?))(?:  # (?P<other>official|paper): (?P<others>.+))?$")


def lines(name: str) -> list[str]:
    """Return the lines of a recipe below its header."""
    return [line for line in (RECIPES / f"{name}.yaml").read_text().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize(("name", "other"), [("official", "paper"), ("paper", "official")])
def test_differing_line_gives_the_other_recipes_value(name: str, other: str) -> None:
    marked = 0
    for here, there in zip(lines(name), lines(other), strict=True):
        if here.startswith("recipe:") or f"models/{name}" in here:
            continue
        own, others = LINE.match(here), LINE.match(there)
        if own is None or others is None:
            assert here == there
        elif own["value"] == others["value"]:
            assert own["other"] is None, here
        else:
            assert (own["other"], own["others"]) == (other, others["value"]), here
            marked += 1
    assert marked > 40


def test_fast_differs_from_paper_only_in_fine_tuning_and_says_where() -> None:
    differing = []
    for here, there in zip(lines("fast"), lines("paper"), strict=True):
        plain = re.sub(r"  # official: .*", "", there)
        if here == plain.replace("models/paper/", "models/fast/").replace("recipe: paper", "recipe: fast"):
            continue
        setting, _, value = here.partition("  # paper: ")
        key = setting.split(":")[0]
        assert plain == f"{key}: {value}", here
        differing.append(key.strip())
    assert differing == ["batch_size", "captions_per_clip", "questions_per_clip", "questions_per_clip"]


@pytest.mark.parametrize("name", ["official", "paper", "fast", "sample", "tiny"])
def test_header_gives_the_cost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECIPES.parent)
    assert re.search(r"\d+ (h|minutes) on", recipes.describe(name))
    load(recipes.path_of(name))
