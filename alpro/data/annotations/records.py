"""The typed record into which every annotation layout is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

QUESTION_TYPES = ("what", "who", "how", "where", "when")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a video, with its one-word answer and its type (QUESTION_TYPES)."""

    id: int  # row in the annotation file, from 0; per-question results refer to it
    text: str
    answer: str
    type: str


@dataclass(frozen=True, slots=True)
class Record:
    """A video or image with all its captions and questions."""

    id: str  # the video's name in the annotations
    path: Path  # path of its file, with extension
    media: Literal["video", "image"] = "video"
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
