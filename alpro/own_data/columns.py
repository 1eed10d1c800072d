"""Finds out which columns of a table hold the videos, the texts and the split: by their names, else by their content."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

VIDEO = ("clip_name", "video_id", "video", "videoid", "file_name", "filename", "file", "clip", "clip_id", "path", "video_name",
         "video_path", "video_file", "filepath", "media", "id", "name")  # fmt: skip
CAPTION = ("caption", "captions", "text", "texts", "sentence", "sentences", "description", "descriptions", "title", "label",
           "annotation", "transcript")  # fmt: skip
QUESTION = ("question", "query", "q")
ANSWER = ("answer", "answers", "a", "response")
ANSWER_TYPE = ("answer_type", "question_type")
SPLIT = ("split", "subset", "partition", "set")
SAMPLED = 200  # rows whose content is looked at


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns by role. `caption` is None for questions, `question` and `answer` for captions."""

    video: str
    caption: str | None = None
    question: str | None = None
    answer: str | None = None
    answer_type: str | None = None
    split: str | None = None

    @property
    def task(self) -> str:
        """The task that the table is for: qa or retrieval."""
        return "qa" if self.question else "retrieval"

    def described(self) -> str:
        """Return the columns that are used, in words."""
        roles = [(self.video, "video"), (self.caption, "caption"), (self.question, "question"), (self.answer, "answer"),
                 (self.answer_type, "answer_type"), (self.split, "split")]  # fmt: skip
        return ", ".join(role if role == name else f"{name} (as {role})" for name, role in roles if name)


def find_columns(
    rows: Sequence[Mapping[str, Any]], has_video: Callable[[str], bool], task: str | None = None
) -> Columns | None:
    """Return the columns of a table; None if no column names videos of the folder or none has texts.

    has_video: tells if a name is that of a video of the folder; task: retrieval or qa, if the caller wants one of them.
    """
    names = list(dict.fromkeys(name for row in rows[:SAMPLED] for name in row))
    video = _video_column(names, rows[:SAMPLED], has_video)
    if video is None:
        return None
    others = [name for name in names if name != video]
    split, question, answer = (_named(others, known) for known in (SPLIT, QUESTION, ANSWER))
    if question and answer and task != "retrieval":
        return Columns(video, question=question, answer=answer, answer_type=_named(others, ANSWER_TYPE), split=split)
    caption = _named(others, CAPTION)
    if caption is None and not (question or answer):
        texts = [name for name in others if name != split and _has_words(rows[:SAMPLED], name)]
        caption = texts[0] if len(texts) == 1 else None
    if caption is None or task == "qa":
        return None
    return Columns(video, caption=caption, split=split)


def _video_column(names: Sequence[str], rows: Sequence[Mapping[str, Any]], has_video: Callable[[str], bool]) -> str | None:
    """Return the column with the most names of videos, of equal ones the one with the best known name."""
    best: tuple[int, int] = (0, 0)
    found = None
    for name in names:
        matches = sum(has_video(cell_text(row.get(name))) for row in rows)
        key = _key(name)
        rank = (matches, -VIDEO.index(key) if key in VIDEO else -len(VIDEO))
        if matches and (found is None or rank > best):
            found, best = name, rank
    return found


def _named(names: Iterable[str], known: Sequence[str]) -> str | None:
    keys = {_key(name): name for name in reversed(list(names))}
    return next((keys[name] for name in known if name in keys), None)


def _has_words(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return True if most cells of a column are texts of several words."""
    cells = [row.get(name) for row in rows]
    return sum(isinstance(cell, (str, list)) and " " in cell_text(cell).strip() for cell in cells) * 2 > len(cells) > 0


def _key(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def cell_text(cell: Any) -> str:
    """Return a cell as text: the first of a list, a number in digits, and an empty text for null."""
    if isinstance(cell, list):
        return cell_text(cell[0]) if cell else ""
    return "" if cell is None else str(cell)
