"""Example test videos of each task: some hits and some misses, with frames and the model's top answers or videos."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from alpro.config import Dataset
from alpro.data.annotations.read import read_dataset
from alpro.data.media.read import read_frames
from alpro.errors import DataError
from alpro.report.collect import EvaluationRecord

FRAMES, SIDE = 4, 96  # of a film strip: number of frames, their side in pixels
HITS, MISSES = 6, 6  # per task
QUESTIONS = 5  # per video

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Strip:
    """Frames of a video for the page: the CSS class that shows them, empty if the video cannot be read."""

    name: str
    css_class: str


@dataclass(frozen=True, slots=True)
class Examples:
    """Some cards of `total` hits or misses."""

    title: str
    total: int
    cards: Sequence[Mapping[str, Any]]


class FilmStrips:
    """Film strips of videos; each is embedded once, however often it is shown."""

    def __init__(self) -> None:
        self._classes: dict[Path, str] = {}
        self._css: list[str] = []

    def strip(self, path: Path | None, name: str) -> Strip:
        """Return a video's frames side by side, or only its name if the video cannot be read."""
        if path is None:
            return Strip(name, "")
        if path not in self._classes:
            try:
                frames = read_frames(path, FRAMES, SIDE)
            except DataError:
                self._classes[path] = ""
            else:
                self._classes[path] = f"f{len(self._css)}"
                self._css.append(f".{self._classes[path]}{{background-image:url(data:image/jpeg;base64,{_jpeg(frames)})}}")
        return Strip(name, self._classes[path])

    def css(self) -> Markup:
        """Return the CSS rules that contain the frames."""
        return Markup("\n".join(self._css))


def gallery(record: EvaluationRecord, dataset: Dataset, films: FilmStrips) -> list[Examples]:
    """Return a task's hits and misses."""
    paths = {r.id: r.path for r in read_dataset(dataset, record.params["evaluate"]["split"])}
    rows = record.rows()
    if record.kind == "retrieval":
        queries = [row for row in rows if row["direction"] == "text2video"]
        return _examples(("Hits", "Misses"), queries, lambda row: row["rank"] == 1, lambda row: _query_card(row, paths, films))
    videos: dict[str, list[Row]] = {}
    for row in rows:
        videos.setdefault(row["video"], []).append(row)
    asked = [{"video": video, "rows": questions} for video, questions in videos.items()]

    def mostly_right(card: Mapping[str, Any]) -> bool:
        return 2 * sum(row["correct"] for row in card["rows"]) > len(card["rows"])

    return _examples(("Mostly right", "Mostly wrong"), asked, mostly_right, lambda card: _video_card(card, paths, films))


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` items, evenly spaced, including the first."""
    return list(items) if len(items) <= count else [items[n * len(items) // count] for n in range(count)]


def _examples(
    names: tuple[str, str], items: Sequence[Any], is_hit: Callable[[Any], bool], card: Callable[[Any], Mapping[str, Any]]
) -> list[Examples]:
    hits, misses = [item for item in items if is_hit(item)], [item for item in items if not is_hit(item)]
    return [
        Examples(name, len(found), [card(item) for item in spread(found, count)])
        for name, found, count in ((names[0], hits, HITS), (names[1], misses, MISSES))
        if found
    ]


def _query_card(row: Row, paths: Mapping[str, Path], films: FilmStrips) -> Mapping[str, Any]:
    """Return a caption with its top videos and, if it is not among them, the correct one."""

    def hit(rank: int, video: str, score: float) -> Mapping[str, Any]:
        return {"rank": rank, "strip": films.strip(paths.get(video), video), "score": score, "right": video == row["video"]}

    best = [hit(rank, video, score) for rank, (video, score) in enumerate(row["top"], 1)]
    missing = [] if any(shown["right"] for shown in best) else [hit(row["rank"], row["video"], row["score"])]
    return {"text": row["text"], "best": best, "missing": missing}


def _video_card(card: Mapping[str, Any], paths: Mapping[str, Path], films: FilmStrips) -> Mapping[str, Any]:
    """Return a video with some of its questions and their most likely answers."""
    strip = films.strip(paths.get(card["video"]), card["video"])
    return {"text": "", "strip": strip, "questions": [_question(row) for row in spread(card["rows"], QUESTIONS)]}


def _question(row: Row) -> Mapping[str, Any]:
    answers = [
        {
            "text": answer,
            "percent": f"{100 * probability:.0f}",
            "kind": "right" if answer == row["answer"] else "wrong" if n == 0 else "",
        }
        for n, (answer, probability) in enumerate(row["top"])
    ]
    return {"question": row["question"], "correct_answer": "" if row["correct"] else row["answer"], "answers": answers}


def _jpeg(frames: np.ndarray) -> str:
    """Encode frames (T, S, S, 3) side by side as a base64 JPEG."""
    from PIL import Image

    data = io.BytesIO()
    frames = frames.copy()
    frames[:-1, :, -2:] = 255  # a white line between frames
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(data, "JPEG", quality=80)
    return base64.b64encode(data.getvalue()).decode()
