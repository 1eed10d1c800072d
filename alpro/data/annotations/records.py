"""The one typed record that every annotation layout is read into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Question:
    """A question on a video, with its one-word answer and its type (what, who, how, where, when)."""

    id: int  # its row in the annotation file, from 0: what per-question results name
    text: str
    answer: str
    type: str


@dataclass(frozen=True, slots=True)
class Record:
    """A video (or image) with all that was written about it."""

    id: str  # the video's name in the annotations
    path: Path  # where its file lies, extension included
    media: Literal["video", "image"] = "video"
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
