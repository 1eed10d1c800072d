"""Example test videos of each task: some hits and some misses, with frames and the model's top answers or videos."""

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

FRAMES, SIDE = 4, 96  # of a film strip: number of frames, their side in pixels
HITS, MISSES = 6, 6  # per task
QUESTIONS = 5  # per video

Row = Mapping[str, Any]


class FilmStrips:
    """Film strips of videos; each is embedded once, however often it is shown."""

    def __init__(self) -> None:
        self._classes: dict[Path, str] = {}
        self._css: list[str] = []

    def strip(self, path: Path | None, name: str) -> str:
        """Return the HTML of a video's frames side by side, or of its name if the video cannot be read."""
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
        css_class = self._classes[path]
        if not css_class:
            return f'<div class="film none">{escape(name)}</div>'
        return f'<div class="film {css_class}" role="img" aria-label="frames of {escape(name)}" title="{escape(name)}"></div>'

    def css(self) -> str:
        """Return the CSS rules that contain the frames."""
        return "\n".join(self._css)


def gallery(record: EvaluationRecord, dataset: Dataset, films: FilmStrips) -> str:
    """Return the HTML of a task's hits and misses."""
    paths = {r.id: r.path for r in read_dataset(dataset, record.params["evaluate"]["split"])}
    rows = record.rows()
    if record.kind == "retrieval":
        queries = [row for row in rows if row["direction"] == "text2video"]
        return _section(("Hits", "Misses"), queries, lambda row: row["rank"] == 1, lambda row: _query_card(row, paths, films))
    videos: dict[str, list[Row]] = {}
    for row in rows:
        videos.setdefault(row["video"], []).append(row)
    cards = [{"video": video, "rows": questions} for video, questions in videos.items()]

    def mostly_right(card: Mapping[str, Any]) -> bool:
        return 2 * sum(row["correct"] for row in card["rows"]) > len(card["rows"])

    return _section(("Mostly right", "Mostly wrong"), cards, mostly_right, lambda card: _video_card(card, paths, films))


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` items, evenly spaced, including the first."""
    return list(items) if len(items) <= count else [items[n * len(items) // count] for n in range(count)]


def _section(names: tuple[str, str], items: Sequence[Any], is_hit: Callable[[Any], bool], card: Callable[[Any], str]) -> str:
    hits, misses = [item for item in items if is_hit(item)], [item for item in items if not is_hit(item)]
    html = []
    for name, examples, count in ((names[0], hits, HITS), (names[1], misses, MISSES)):
        selected = spread(examples, count)
        if selected:
            html.append(f"<h4>{name} <small>{len(selected)} of {len(examples)}</small></h4>")
            html.append(f'<div class="cards">{"".join(card(item) for item in selected)}</div>')
    return "".join(html)


def _query_card(row: Row, paths: Mapping[str, Path], films: FilmStrips) -> str:
    """Return a caption with its top videos; the correct one is marked."""
    best = []
    for rank, (video, score) in enumerate(row["top"], 1):
        right = " right" if video == row["video"] else ""
        best.append(
            f'<li class="{right.strip()}"><b>{rank}</b>{films.strip(paths.get(video), video)}<span>{score:.3f}</span></li>'
        )
    missing = ""
    if all(video != row["video"] for video, _ in row["top"]):
        strip = films.strip(paths.get(row["video"]), row["video"])
        missing = f'<ol class="top"><li class="right"><b>{row["rank"]}</b>{strip}<span>{row["score"]:.3f}</span></li></ol>'
    return f'<article><p class="text">{escape(row["text"])}</p><ol class="top">{"".join(best)}</ol>{missing}</article>'


def _video_card(card: Mapping[str, Any], paths: Mapping[str, Path], films: FilmStrips) -> str:
    """Return a video with some of its questions and their most likely answers."""
    video, rows = card["video"], spread(card["rows"], QUESTIONS)
    lines = "".join(_question(row) for row in rows)
    return f'<article>{films.strip(paths.get(video), video)}<ul class="asked">{lines}</ul></article>'


def _question(row: Row) -> str:
    answers = []
    for n, (answer, probability) in enumerate(row["top"]):
        kind = "right" if answer == row["answer"] else "wrong" if n == 0 else ""
        answers.append(f'<span class="{kind}">{escape(answer)} <small>{100 * probability:.0f}</small></span>')
    correct = "" if row["correct"] else f" <em>{escape(row['answer'])}</em>"
    return f'<li>{escape(row["question"])}{correct}<div class="answers">{"".join(answers)}</div></li>'


def _jpeg(frames: np.ndarray) -> str:
    """Encode frames (T, S, S, 3) side by side as a base64 JPEG."""
    from PIL import Image

    data = io.BytesIO()
    frames = frames.copy()
    frames[:-1, :, -2:] = 255  # a white line between frames
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(data, "JPEG", quality=80)
    return base64.b64encode(data.getvalue()).decode()
