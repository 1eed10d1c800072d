"""Test videos to look at: for each task some hits and some misses, with the model's first answers or videos, and frames."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from alpro.config import Dataset
from alpro.data.annotations.read import read_dataset
from alpro.data.media.read import read_frames
from alpro.errors import DataError
from alpro.report.collect import EvaluationRecord

FRAMES, SIDE = 4, 96  # of a film strip
HITS, MISSES = 6, 6  # shown of each task
QUESTIONS = 5  # shown of each video

Row = Mapping[str, Any]


class Films:
    """Film strips of videos, each embedded once however often it is shown."""

    def __init__(self) -> None:
        self._classes: dict[Path, str] = {}
        self._css: list[str] = []

    def strip(self, path: Path | None, name: str) -> str:
        """A video's frames side by side; its name alone when it can't be read here."""
        if path is None:
            return f'<div class="film none">{escape(name)}</div>'
        if path not in self._classes:
            try:
                frames = read_frames(path, FRAMES, SIDE)
            except DataError:
                self._classes[path] = ""
            else:
                self._classes[path] = f"f{len(self._css)}"
                self._css.append(f".{self._classes[path]}{{background-image:url(data:image/jpeg;base64,{_jpeg(frames)})}}")
        known = self._classes[path]
        if not known:
            return f'<div class="film none">{escape(name)}</div>'
        return f'<div class="film {known}" role="img" aria-label="frames of {escape(name)}" title="{escape(name)}"></div>'

    def css(self) -> str:
        """The frames themselves."""
        return "\n".join(self._css)


def gallery(record: EvaluationRecord, dataset: Dataset, films: Films) -> str:
    """HTML of one task's hits and misses."""
    paths = {r.id: r.path for r in read_dataset(dataset, record.given["evaluate"]["split"])}
    rows = record.rows()
    if record.kind == "retrieval":
        queries = [row for row in rows if row["direction"] == "text2video"]
        return _section(("Hits", "Misses"), queries, lambda row: row["rank"] == 1, lambda row: _query(row, paths, films))
    videos: dict[str, list[Row]] = {}
    for row in rows:
        videos.setdefault(row["video"], []).append(row)
    cards = [{"video": video, "rows": asked} for video, asked in videos.items()]

    def mostly_right(card: Mapping[str, Any]) -> bool:
        return 2 * sum(row["correct"] for row in card["rows"]) > len(card["rows"])

    return _section(("Mostly right", "Mostly wrong"), cards, mostly_right, lambda card: _asked(card, paths, films))


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spread, the first included."""
    return list(items) if len(items) <= count else [items[n * len(items) // count] for n in range(count)]


def _section(names: tuple[str, str], items: Sequence[Any], is_hit: Callable[[Any], bool], card: Callable[[Any], str]) -> str:
    hits, misses = [item for item in items if is_hit(item)], [item for item in items if not is_hit(item)]
    parts = []
    for name, found, count in ((names[0], hits, HITS), (names[1], misses, MISSES)):
        shown = spread(found, count)
        if shown:
            parts.append(f"<h4>{name} <small>{len(shown)} of {len(found)}</small></h4>")
            parts.append(f'<div class="cards">{"".join(card(item) for item in shown)}</div>')
    return "".join(parts)


def _query(row: Row, paths: Mapping[str, Path], films: Films) -> str:
    """A caption with its first videos; the right one is marked."""
    best = []
    for place, (video, score) in enumerate(row["top"], 1):
        right = " right" if video == row["video"] else ""
        best.append(
            f'<li class="{right.strip()}"><b>{place}</b>{films.strip(paths.get(video), video)}<span>{score:.3f}</span></li>'
        )
    missing = ""
    if all(video != row["video"] for video, _ in row["top"]):
        strip = films.strip(paths.get(row["video"]), row["video"])
        missing = f'<ol class="top"><li class="right"><b>{row["rank"]}</b>{strip}<span>{row["score"]:.3f}</span></li></ol>'
    return f'<article><p class="text">{escape(row["text"])}</p><ol class="top">{"".join(best)}</ol>{missing}</article>'


def _asked(card: Mapping[str, Any], paths: Mapping[str, Path], films: Films) -> str:
    """A video with some of its questions and the likeliest answers."""
    video, rows = card["video"], spread(card["rows"], QUESTIONS)
    lines = "".join(_question(row) for row in rows)
    return f'<article>{films.strip(paths.get(video), video)}<ul class="asked">{lines}</ul></article>'


def _question(row: Row) -> str:
    answers = []
    for n, (answer, chance) in enumerate(row["top"]):
        kind = "right" if answer == row["answer"] else "wrong" if n == 0 else ""
        answers.append(f'<span class="{kind}">{escape(answer)} <small>{100 * chance:.0f}</small></span>')
    wanted = "" if row["correct"] else f" <em>{escape(row['answer'])}</em>"
    return f'<li>{escape(row["question"])}{wanted}<div class="answers">{"".join(answers)}</div></li>'


def _jpeg(frames: np.ndarray) -> str:
    """Frames (T, S, S, 3) side by side, as base64."""
    from PIL import Image

    data = io.BytesIO()
    frames = frames.copy()
    frames[:-1, :, -2:] = 255  # a line between them
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(data, "JPEG", quality=80)
    return base64.b64encode(data.getvalue()).decode()
