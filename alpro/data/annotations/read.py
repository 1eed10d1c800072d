"""Reads annotations into one typed `Record` per video.

Retrieval: {train,val,test}.jsonl of `{clip_name, caption}`. Question answering: {train,val,test}.jsonl of
`{video_id, question, answer, answer_type}` and train_ans2label.json. Corpora: .csv, .tsv, .parquet, .jsonl or .json of
`video_id` or `image` and `text` or `caption`. The sets' own distribution forms, and one table with a column `split`:
see `layouts`. A file that can't be used raises DataError, which names the file, the line and the key of every fault.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from alpro.config import Corpus, Dataset
from alpro.data.annotations.layouts import SPLITS, Row, annotation_file, answers_of, corpus_rows, split_rows
from alpro.data.annotations.media_files import MediaFolder, missing_paths
from alpro.data.annotations.records import Question, Record
from alpro.data.annotations.rows import Faults, cell, read_json, texts
from alpro.data.media.extensions import bare_name
from alpro.data.sources.known_missing import known_missing
from alpro.errors import DataError

__all__ = [
    "QUESTION_TYPES", "SPLITS", "annotation_file", "answer_file", "missing_files", "read_answer_list", "read_answers",
    "read_corpus", "read_dataset",
]  # fmt: skip

log = logging.getLogger(__name__)
QUESTION_TYPES = ("what", "who", "how", "where", "when")
VIDEO_KEYS = ("clip_name", "video_id", "video", "videoid", "file_name")
MEDIA_KEYS = ("video_id", "image", "videoid", "video", "clip_name", "file_name")
CAPTION_KEYS = ("caption", "text", "name", "sentence", "description")


def read_dataset(dataset: Dataset, split: str) -> list[Record]:
    """All videos of a split in the order of the file, with their captions or questions."""
    path, rows = annotation_file(dataset, split), split_rows(dataset, split)
    folder = MediaFolder(dataset.videos, "video")
    if dataset.task == "retrieval":
        records = _read_captions(path, rows, folder, "video", VIDEO_KEYS)
    else:
        records = _read_questions(path, rows, folder)
    return _without_known_missing(path, records)


def read_corpus(corpus: Corpus, split: Literal["train", "val"] = "train") -> list[Record]:
    """All videos or images of a corpus in the order of the file, with their captions; none where it has no such split."""
    if split not in ("train", "val"):
        raise DataError(f"a corpus has no split {split!r}; it has train and val")
    file = corpus.train if split == "train" else corpus.val
    if file is None:
        return []
    path, folder = Path(file), MediaFolder(corpus.root, corpus.media)
    rows = corpus_rows(path, folder)
    return _without_known_missing(path, _read_captions(path, rows, folder, corpus.media, MEDIA_KEYS))


def read_answers(dataset: Dataset) -> dict[str, int]:
    """A data set's answer list, as `read_answer_list` reads it; of one table, the answers of its training rows.

    Those are ordered by frequency, then alphabetically.
    """
    file = answer_file(dataset)
    if file is not None:
        return read_answer_list(file)
    answers = answers_of(row.get("answer") for _, row in split_rows(dataset, "train"))
    if not answers:
        raise DataError(f"{dataset.annotations}: the training rows hold no answers; fill in their `answer`")
    return answers


def answer_file(dataset: Dataset) -> Path | None:
    """The answer list in the folder of the annotations: train_ans2label.json, else the one `*ans2label.json`.

    None where the annotations are one table. Raises DataError where there are several lists and none has the official name.
    """
    folder = Path(dataset.annotations)
    if folder.is_file():
        return None
    official = folder / "train_ans2label.json"
    found = [official] if official.is_file() else sorted(folder.glob("*ans2label.json"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{folder}: several answer lists ({names}); call the right one train_ans2label.json")
    return found[0] if found else official


def read_answer_list(path: Path) -> dict[str, int]:
    """The answers that can be given, each with its label: 0 to their number - 1, each once. Raises DataError."""
    answers = read_json(path)
    if not isinstance(answers, dict) or not answers:
        raise DataError(f"{path}: must hold one object {{answer: label}} with at least one answer")
    faults = Faults(path)
    for answer, label in answers.items():
        if not isinstance(label, int) or isinstance(label, bool):
            faults.add(repr(answer), f"label {label!r} is no whole number")
    faults.check()
    if sorted(answers.values()) != list(range(len(answers))):
        raise DataError(f"{path}: labels must be 0 to {len(answers) - 1}, each once; number the {len(answers)} answers anew")
    return answers


def missing_files(records: list[Record]) -> list[Record]:
    """The records whose file does not exist."""
    absent = missing_paths([record.path for record in records])
    return [record for record in records if record.path in absent]


def _without_known_missing(path: Path, records: list[Record]) -> list[Record]:
    allowed = known_missing(path)
    absent = {record.id for record in missing_files([record for record in records if record.id in allowed])}
    if absent:
        log.warning("%s: left out %d videos that are known to be missing: %s", path, len(absent), ", ".join(sorted(absent)[:5]))
    return [record for record in records if record.id not in absent]


def _read_captions(
    path: Path, rows: Iterable[Row], folder: MediaFolder, media: Literal["video", "image"], keys: tuple[str, ...]
) -> list[Record]:
    faults = Faults(path)
    names: dict[str, str] = {}  # bare name -> the name as first given
    captions: dict[str, list[str]] = {}
    for where, row in rows:
        name = cell(row, keys, where, faults, number_too=True)
        found = texts(row, CAPTION_KEYS, where, faults)
        if name is None:
            continue
        name = in_page(name, row)
        key = _agreed(names, name, where, faults)
        captions.setdefault(key, []).extend(found)
    faults.check()
    _refuse_empty(path, names)
    return [Record(key, folder.path(name), media, captions=tuple(captions[key])) for key, name in names.items()]


def _read_questions(path: Path, rows: Iterable[Row], folder: MediaFolder) -> list[Record]:
    faults = Faults(path)
    names: dict[str, str] = {}
    questions: dict[str, list[Question]] = {}
    for number, (where, row) in enumerate(rows):
        name = cell(row, VIDEO_KEYS, where, faults, number_too=True)
        text = cell(row, ("question",), where, faults)
        answer = cell(row, ("answer",), where, faults, number_too=True)
        kind = cell(row, ("answer_type",), where, faults) if "answer_type" in row else text and text.split()[0].lower()
        if name is None or text is None or answer is None or kind is None:
            continue
        questions.setdefault(_agreed(names, name, where, faults), []).append(Question(number, text, answer, kind))
    faults.check()
    _refuse_empty(path, names)
    return [Record(key, folder.path(name), questions=tuple(questions[key])) for key, name in names.items()]


def _agreed(names: dict[str, str], name: str, where: str, faults: Faults) -> str:
    """The bare name; two extensions of one name are a fault, for they would be two videos with one id."""
    key = bare_name(name)
    first = names.setdefault(key, name)
    if first != name:
        faults.add(where, f"{name!r} and the earlier {first!r} are both called {key!r}; give one of them another name")
    return key


def in_page(name: str, row: dict[str, object]) -> str:
    """WebVid's own table puts each video into a folder, its `page_dir`."""
    page = row.get("page_dir")
    return f"{page}/{name}" if isinstance(page, str) and page else name


def _refuse_empty(path: Path, names: dict[str, str]) -> None:
    if not names:
        raise DataError(f"{path}: holds no rows; put the annotations there")
