"""The two tables of a set that Great Expectations validates: its annotation rows and its videos.

Faulty rows are read as they are, whereas the readers for training (alpro/data/annotations/read.py) refuse the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from alpro.config import Corpus, Dataset
from alpro.data.annotations import read as reading
from alpro.data.annotations.layouts import corpus_rows, label_answers, split_rows
from alpro.data.annotations.media_files import MediaFolder, missing_paths
from alpro.data.annotations.rows import Faults, missing_key
from alpro.data.media.extensions import bare_name
from alpro.data.sources.known_missing import known_missing
from alpro.errors import DataError

ROW_COLUMNS = ["n", "file", "place", "split", "video", "text", "tokens", "answer", "type", "id", "label", "asked"]
READ_COLUMNS = ["file", "place", "split", "video", "path", "text", "answer", "type", "id"]
ID_KEYS = ("sen_id", "question_id", "id")  # id of a caption or question, if the set has one
VIDEO_COLUMNS = ["n", "file", "place", "split", "video", "path", "content", "frames", "error"]


@dataclass(slots=True)
class Tables:
    """`rows` has one row per caption or question, `videos` one per video and split; `faults` lists unreadable annotations.

    Columns of `rows`: n, file, place (`line 3`), split, video, text, tokens, id (if the set has ids), and for qa answer,
    type, label (the answer's class) and asked (video and question). Columns of `videos`: n, file, place (of its first row),
    split, video, path, content (hash), frames, error.
    """

    rows: pd.DataFrame
    videos: pd.DataFrame
    files: dict[str, Path]  # annotations by split, and `answers`
    faults: list[str]
    known_missing: int  # number of videos left out


def read_tables(source: Corpus | Dataset, needed: Sequence[str]) -> Tables:
    """Read a corpus or dataset, without token lengths, content hashes and frames.

    Splits that are not `needed` may be missing. Their videos get no path, as nothing reads them.
    """
    faults: list[str] = []
    splits = _files(source, needed, faults)
    files = dict(splits)
    answers = _answers(source, files, faults) if isinstance(source, Dataset) and source.task == "qa" else None
    media = source.media if isinstance(source, Corpus) else "video"
    folder = MediaFolder(source.root if isinstance(source, Corpus) else source.videos, media)
    columns: dict[str, list[Any]] = {column: [] for column in READ_COLUMNS}
    for split, file in splits.items():
        before = len(columns["file"])
        try:
            for row in _rows(source, split, file, folder):
                for column, value in zip(READ_COLUMNS, row, strict=True):
                    columns[column].append(value)
            if len(columns["file"]) == before and split in needed:
                faults.append(f"{file}: contains no rows; put the {split} annotations there")
        except DataError as error:
            faults += str(error).splitlines()
    rows = pd.DataFrame(columns, dtype=object).reindex(columns=[*ROW_COLUMNS, "path"])
    absent = rows["path"].isin(_known_absent(files, rows))
    videos_missing = int(rows.loc[absent, "video"].nunique())
    rows = rows[~absent].reset_index(drop=True)
    rows["n"] = rows.index
    if answers == {}:
        answers = label_answers(rows.loc[rows["split"] == "train", "answer"])
    rows["label"] = rows["answer"].map(answers) if answers is not None else 0  # without a list every answer is valid
    rows["asked"] = rows["video"] + " / " + rows["text"]
    videos = (
        rows.dropna(subset=["path"])
        .drop_duplicates(["split", "video", "path"])
        .reindex(columns=VIDEO_COLUMNS)
        .reset_index(drop=True)
    )
    videos["n"] = videos.index
    videos.loc[~videos["split"].isin(needed), "path"] = None
    return Tables(rows.drop(columns="path"), videos, files, list(dict.fromkeys(faults)), videos_missing)


def _known_absent(files: dict[str, Path], rows: pd.DataFrame) -> set[str]:
    """Return the paths of absent videos that are known to be missing; the readers leave them out."""
    allowed = frozenset().union(*map(known_missing, files.values()))
    paths = rows.loc[rows["video"].isin(allowed), "path"].dropna().unique()
    return set(map(str, missing_paths([Path(path) for path in paths])))


def _files(source: Corpus | Dataset, needed: Sequence[str], faults: list[str]) -> dict[str, Path]:
    if isinstance(source, Corpus):
        return {"train": Path(source.train)} | ({"val": Path(source.val)} if source.val else {})
    files = {}
    for split in reading.SPLITS:
        try:
            files[split] = reading.annotation_file(source, split)
        except DataError as error:
            if split in needed:
                faults.append(str(error))
    return files


def _answers(source: Dataset, files: dict[str, Path], faults: list[str]) -> dict[str, int] | None:
    """Return the answer list and add its file to `files`; empty if the set has none, None if it cannot be read."""
    try:
        listed = reading.answer_file(source)
        answers = reading.read_answer_list(listed) if listed else {}
    except DataError as error:
        faults.append(str(error))
        return None
    if listed:
        files["answers"] = listed
    return answers


def _rows(source: Corpus | Dataset, split: str, file: Path, folder: MediaFolder) -> Iterator[tuple[str | None, ...]]:
    """Yield a tuple of the columns READ_COLUMNS for each caption or question.

    Raises DataError that names the missing key once if no row at all has the video, the text or the answer.
    """
    qa = isinstance(source, Dataset) and source.task == "qa"
    name_keys = reading.MEDIA_KEYS if isinstance(source, Corpus) else reading.VIDEO_KEYS
    absent = [name_keys, ("question",), ("answer",)] if qa else [name_keys, reading.CAPTION_KEYS]
    file_name = str(file)
    waiting: list[tuple[str, dict[str, Any]]] = []  # rows before the first with all keys
    names: dict[str, tuple[str, str]] = {}  # name in the annotations -> bare name and path
    for place, row in corpus_rows(file, folder) if isinstance(source, Corpus) else split_rows(source, split):
        absent = [keys for keys in absent if not any(key in row for key in keys)]
        waiting.append((place, row))
        if absent:
            continue
        for place, row in waiting:
            name = _text(row, name_keys)
            video, path = name, None
            if name:
                name = reading.with_page_folder(name, row)
                if name not in names:
                    names[name] = bare_name(name), str(folder.path(name))
                video, path = names[name]
            number = _text(row, ID_KEYS) if isinstance(source, Dataset) else None
            for text, answer, kind in _asked(row) if qa else ((text, None, None) for text in _texts(row, reading.CAPTION_KEYS)):
                yield file_name, place, split, video, path, text, answer, kind, number
                number = None  # the id belongs to the whole list of captions
        waiting.clear()
    faults = Faults(file)
    for place, row in waiting:
        for keys in absent:
            faults.add_once(place, missing_key(row, keys))
    faults.check()


def _asked(row: dict[str, Any]) -> list[tuple[str | None, str | None, str | None]]:
    """Return (question, answer, type) of a row."""
    question = _text(row, ("question",))
    kind = _text(row, ("answer_type",)) if "answer_type" in row else (question or "").split(" ")[0].lower()
    return [(question, _text(row, ("answer",)), kind)]


def _texts(row: dict[str, Any], keys: tuple[str, ...]) -> list[str | None]:
    many = next((row[key] for key in keys if isinstance(row.get(key), list)), None)
    return [_text(row, keys)] if many is None else [_text({"": text}, ("",)) for text in many] or [None]


def _text(row: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    """Return the value of the first key that the row has, stripped; None if it is not a text."""
    value = next((row[key] for key in keys if key in row), None)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value).strip()
