"""Reads annotations into one typed `Record` per video.

- Retrieval: {train,val,test}.jsonl of `{clip_name, caption}`.
- Question answering: {train,val,test}.jsonl of `{video_id, question, answer, answer_type}`, and train_ans2label.json.
- Corpora: .csv, .tsv, .parquet, .jsonl or .json of `video_id` or `image` and `text` or `caption`.

See `layouts` for the formats in which the sets are published and for one table with a column `split`. An unusable file
raises a DataError with the file, the line and the key of every fault.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from alpro.config import Corpus, Dataset
from alpro.data.annotations.layouts import SPLITS, Row, annotation_file, corpus_rows, label_answers, split_rows
from alpro.data.annotations.media_files import MediaFolder, missing_paths
from alpro.data.annotations.records import Question, Record
from alpro.data.annotations.rows import Faults, read_json, read_text_cell, read_text_cells
from alpro.data.media.extensions import bare_name
from alpro.data.sources.known_missing import known_missing
from alpro.errors import DataError
from alpro.files.names import shown, text_fault
from alpro.terminal import logs

__all__ = [
    "SPLITS", "annotation_file", "answer_file", "missing_files", "read_answer_list", "read_answers",
    "read_corpus", "read_dataset",
]  # fmt: skip

log = logs.get(__name__)
VIDEO_KEYS = ("clip_name", "video_id", "video", "videoid", "file_name")
MEDIA_KEYS = ("video_id", "image", "videoid", "video", "clip_name", "file_name")
CAPTION_KEYS = ("caption", "text", "name", "sentence", "description")


def read_dataset(dataset: Dataset, split: str) -> list[Record]:
    """Return all videos of a split in the order of the file, with their captions or questions."""
    path, rows = annotation_file(dataset, split), split_rows(dataset, split)
    folder = MediaFolder(dataset.videos, "video")
    if dataset.task == "retrieval":
        records = _read_captions(path, rows, folder, "video", VIDEO_KEYS)
    else:
        records = _read_questions(path, rows, folder)
    return without_known_missing(path, records)


def read_corpus(corpus: Corpus, split: Literal["train", "val"] = "train") -> list[Record]:
    """Return all videos or images of a corpus in the order of the file, with captions; empty if it has no such split."""
    if split not in ("train", "val"):
        raise DataError(f"a corpus has no split {split!r}; it has train and val")
    file = corpus.train if split == "train" else corpus.val
    if file is None:
        return []
    path, folder = Path(file), MediaFolder(corpus.root, corpus.media)
    rows = corpus_rows(path, folder)
    return without_known_missing(path, _read_captions(path, rows, folder, corpus.media, MEDIA_KEYS))


def read_answers(dataset: Dataset) -> dict[str, int]:
    """Return {answer: label} of a dataset: its answer list, or for one table the answers of its training rows.

    The answers of a table are ordered by frequency, then alphabetically.
    """
    file = answer_file(dataset)
    if file is not None:
        return read_answer_list(file)
    answers = label_answers(row.get("answer") for _, row in split_rows(dataset, "train"))
    if not answers:
        raise DataError(f"{dataset.annotations}: the training rows have no answers; fill in their `answer`")
    return answers


def answer_file(dataset: Dataset) -> Path | None:
    """Return the answer list in the annotation folder: train_ans2label.json, or else the only `*ans2label.json`.

    Returns None if the annotations are one table. Raises DataError if there are several lists and none has the official
    name.
    """
    folder = Path(dataset.annotations)
    if folder.is_file():
        return None
    official = folder / "train_ans2label.json"
    lists = [official] if official.is_file() else sorted(folder.glob("*ans2label.json"))
    if len(lists) > 1:
        names = ", ".join(path.name for path in lists)
        raise DataError(f"{folder}: several answer lists ({names}); rename the right one to train_ans2label.json")
    return lists[0] if lists else official


def read_answer_list(path: Path) -> dict[str, int]:
    """Return {answer: label}; labels are 0 to the number of answers - 1, each once. Raises DataError."""
    answers = read_json(path)
    if not isinstance(answers, dict) or not answers:
        raise DataError(f"{path}: must be one object {{answer: label}} with at least one answer")
    faults = Faults(path)
    for answer, label in answers.items():
        if not isinstance(label, int) or isinstance(label, bool):
            faults.add(repr(answer), f"label {label!r} is not a whole number")
        if fault := text_fault(answer):
            faults.add(f"'{shown(answer)}'", fault)
    faults.check()
    if sorted(answers.values()) != list(range(len(answers))):
        raise DataError(f"{path}: labels must be 0 to {len(answers) - 1}, each once; renumber the answers")
    return answers


def missing_files(records: list[Record]) -> list[Record]:
    """Return the records whose file does not exist."""
    absent = missing_paths([record.path for record in records])
    return [record for record in records if record.path in absent]


def without_known_missing(path: Path, records: list[Record]) -> list[Record]:
    """Return the records without videos that are known to be missing, which are logged."""
    allowed = known_missing(path)
    absent = {record.id for record in missing_files([record for record in records if record.id in allowed])}
    if absent:
        log.warning("%s: left out %d videos that are known to be missing: %s", path, len(absent), ", ".join(sorted(absent)[:5]))
    return [record for record in records if record.id not in absent]


def _read_captions(
    path: Path, rows: Iterable[Row], folder: MediaFolder, media: Literal["video", "image"], keys: tuple[str, ...]
) -> list[Record]:
    faults = Faults(path)
    names: dict[str, str] = {}  # bare name -> the name in its first row
    captions: dict[str, list[str]] = {}
    for position, row in rows:
        name = read_text_cell(row, keys, position, faults, allow_number=True)
        texts = read_text_cells(row, CAPTION_KEYS, position, faults)
        if name is None:
            continue
        key = unique_id(names, with_page_folder(name, row), position, faults)
        captions.setdefault(key, []).extend(texts)
    faults.check()
    _refuse_empty(path, names)
    return [Record(key, folder.path(name), media, captions=tuple(captions[key])) for key, name in names.items()]


def _read_questions(path: Path, rows: Iterable[Row], folder: MediaFolder) -> list[Record]:
    faults = Faults(path)
    names: dict[str, str] = {}  # bare name -> the name in its first row
    questions: dict[str, list[Question]] = {}
    for number, (position, row) in enumerate(rows):
        name = read_text_cell(row, VIDEO_KEYS, position, faults, allow_number=True)
        text = read_text_cell(row, ("question",), position, faults)
        answer = read_text_cell(row, ("answer",), position, faults, allow_number=True)
        if "answer_type" in row:
            kind = read_text_cell(row, ("answer_type",), position, faults)
        else:
            kind = text and text.split()[0].lower()
        if name is None or text is None or answer is None or kind is None:
            continue
        questions.setdefault(unique_id(names, name, position, faults), []).append(Question(number, text, answer, kind))
    faults.check()
    _refuse_empty(path, names)
    return [Record(key, folder.path(name), questions=tuple(questions[key])) for key, name in names.items()]


def unique_id(names: dict[str, str], name: str, position: str, faults: Faults) -> str:
    """Return the bare name, which is the video's id. Add a fault if an earlier row gives it another extension."""
    key = bare_name(name)
    first = names.setdefault(key, name)
    if first != name:
        faults.add(position, f"{name!r} and the earlier {first!r} both have the id {key!r}; rename one of them")
    return key


def with_page_folder(name: str, row: dict[str, object]) -> str:
    """Return the name with the row's `page_dir` in front: the folder of a video in WebVid's own table."""
    page = row.get("page_dir")
    return f"{page}/{name}" if isinstance(page, str) and page else name


def _refuse_empty(path: Path, names: dict[str, str]) -> None:
    if not names:
        raise DataError(f"{path}: has no rows; put the annotations there")
