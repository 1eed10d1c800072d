"""Captions and file names appear as text: nothing in them is HTML, and nothing is a template of Gradio's."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from alpro.app.markup import answered_by, bars, clip_cards, notice, player, text
from alpro.search.query import Hit
from alpro.served.look import Crop, Word
from alpro.served.registry_view import RegisteredVersion, TaskView
from alpro.served.stack import Served

EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "${alert(1)}",
    "{{constructor}}",
    "`${1}`",
]


class Tags(HTMLParser):
    """Collects the tags, the attributes and the text of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def parts(stack: Served, evil: str) -> dict[str, str]:
    """Return every part of the page with a caller's text in it."""
    import numpy as np

    from alpro.app.look_tab import _crops, _heat_maps  # here, as Gradio takes seconds to import
    from alpro.app.models_tab import _task

    version = stack.models.version("search")
    heat = np.eye(4, dtype=np.float32)
    frame = np.zeros((8, 8, 3), np.uint8)
    registered = RegisteredVersion(
        ("champion",), evil, {evil: [58.7, 52.3, 64.7]}, {"at": evil, "against": evil, "checks": [[evil] * 3]}
    )
    return {
        "cards": clip_cards(evil, [Hit(evil, 0.5, 0.1)], ["/clips/a"], [evil], version, 0.1),
        "bars": bars([(evil, 0.5, evil)], evil),
        "player": player("/clips/a", evil),
        "notice": notice(evil),
        "heat": _heat_maps(np.stack([frame]), [Word(evil, heat, 0.5)]),
        "crops": _crops(frame, [Crop((0, 0, 0.5, 0.5), [(evil, 0.5)])]),
        "models": _task(TaskView(evil, "qa", [registered], evil)),
    }


@pytest.mark.parametrize("evil", EVIL)
def test_texts_of_others_appear_as_text(stack: Served, evil: str) -> None:
    harmless = parts(stack, "word")
    for name, html in parts(stack, evil).items():
        found, expected = Tags(), Tags()
        found.feed(html)
        expected.feed(harmless[name])
        assert found.tags == expected.tags and found.attributes == expected.attributes, name
        assert evil in found.text, name
        assert not re.search(r"\$\{|\{\{|`", html), name


def test_control_characters_and_lone_surrogates_are_shown() -> None:
    assert text("a\nb\udce9\x07") == "a&#92;nb&#92;xe9&#92;x07"
    assert notice("") == ""


def test_the_version_that_answered_is_named(stack: Served) -> None:
    line = answered_by(stack.models.version("search"), 0.0421)
    assert "Answered in 42 ms by" in line and "models/tiny/finetune/clips" in line and "newest checkpoint" in line


def test_style_loads_nothing() -> None:
    style = (Path(__file__).parents[2] / "alpro/app/page.css").read_text()
    assert "url(" not in style and "@import" not in style
