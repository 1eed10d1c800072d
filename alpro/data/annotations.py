"""Reads the official annotation layouts into one typed `Record` per video.

Retrieval: {train,val,test}.jsonl of `{clip_name, caption}`. Question answering: {train,val,test}.jsonl of
`{video_id, question, answer, answer_type}` and train_ans2label.json. Corpora: .csv, .parquet, .jsonl or .json of
`video_id` or `image` and `text` or `caption`. A file that can't be used raises DataError, which names the file, the
line and the key of every fault.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from alpro.config import Corpus, Dataset
from alpro.data.media_files import MediaFolder, bare_name, missing
from alpro.data.records import Question, Record
from alpro.data.rows import Faults, cell, read_json, read_rows, texts
from alpro.errors import DataError

SPLITS = ("train", "val", "test")
QUESTION_TYPES = ("what", "who", "how", "where", "when")
_VIDEO = ("clip_name", "video_id", "video", "videoid")
_MEDIA = ("video_id", "image", "videoid", "video", "clip_name")
_CAPTION = ("caption", "text", "name")


def read_dataset(dataset: Dataset, split: str) -> list[Record]:
    """All videos of a split in the order of the file, with their captions or questions."""
    path = annotation_file(dataset, split)
    folder = MediaFolder(dataset.videos, "video")
    return _read_captions(path, folder, "video", _VIDEO) if dataset.task == "retrieval" else _read_questions(path, folder)


def read_corpus(corpus: Corpus, split: Literal["train", "val"] = "train") -> list[Record]:
    """All videos or images of a corpus in the order of the file, with their captions; none where it has no such split."""
    if split not in ("train", "val"):
        raise DataError(f"a corpus has no split {split!r}; it has train and val")
    file = corpus.train if split == "train" else corpus.val
    if file is None:
        return []
    return _read_captions(Path(file), MediaFolder(corpus.root, corpus.media), corpus.media, _MEDIA)


def read_answers(dataset: Dataset) -> dict[str, int]:
    """A data set's answer list, as `read_answer_list` reads it."""
    return read_answer_list(Path(dataset.annotations) / "train_ans2label.json")


def read_answer_list(path: Path) -> dict[str, int]:
    """The answers that can be given, each with its label: 0 to their number - 1, each once. Raises DataError."""
    answers = read_json(path)
    if not isinstance(answers, dict) or not answers:
        raise DataError(f"{path}: must hold one object {{answer: label}} with at least one answer")
    for answer, label in answers.items():
        if not isinstance(label, int) or isinstance(label, bool):
            raise DataError(f"{path}: {answer!r}: label {label!r} is no whole number")
    if sorted(answers.values()) != list(range(len(answers))):
        raise DataError(f"{path}: labels must be 0 to {len(answers) - 1}, each once; number the {len(answers)} answers anew")
    return answers


def missing_files(records: list[Record]) -> list[Record]:
    """The records whose file does not exist."""
    absent = missing([record.path for record in records])
    return [record for record in records if record.path in absent]


def annotation_file(dataset: Dataset, split: str) -> Path:
    """The file of a split. Raises DataError for an unknown split and for a missing file, naming what is there."""
    folder = Path(dataset.annotations)
    if split not in SPLITS:
        raise DataError(f"{folder}: no split {split!r}; there are {', '.join(SPLITS)}")
    for suffix in (".jsonl", ".json"):
        if (folder / f"{split}{suffix}").is_file():
            return folder / f"{split}{suffix}"
    there = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
    raise DataError(f"{folder / split}.jsonl: not found ({there or 'the folder is empty'}); put the {split} annotations there")


def _read_captions(path: Path, folder: MediaFolder, media: Literal["video", "image"], keys: tuple[str, ...]) -> list[Record]:
    faults = Faults(path)
    names: dict[str, str] = {}  # bare name -> the name as first given
    captions: dict[str, list[str]] = {}
    for where, row in read_rows(path):
        name = cell(row, keys, where, faults, number_too=True)
        found = texts(row, _CAPTION, where, faults)
        if name is None:
            continue
        name = _in_page(name, row)
        key = _agreed(names, name, where, faults)
        captions.setdefault(key, []).extend(found)
    faults.check()
    _refuse_empty(path, names)
    return [Record(key, folder.path(name), media, captions=tuple(captions[key])) for key, name in names.items()]


def _read_questions(path: Path, folder: MediaFolder) -> list[Record]:
    faults = Faults(path)
    names: dict[str, str] = {}
    questions: dict[str, list[Question]] = {}
    for number, (where, row) in enumerate(read_rows(path)):
        name = cell(row, ("video_id", "clip_name", "video"), where, faults, number_too=True)
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


def _in_page(name: str, row: dict[str, object]) -> str:
    """WebVid's own table puts each video into a folder, its `page_dir`."""
    page = row.get("page_dir")
    return f"{page}/{name}" if isinstance(page, str) and page else name


def _refuse_empty(path: Path, names: dict[str, str]) -> None:
    if not names:
        raise DataError(f"{path}: holds no rows; put the annotations there")
