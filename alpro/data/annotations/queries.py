"""Reads the questions or captions of one file whose answers may be hidden, as the test splits of challenges are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alpro.config import Dataset
from alpro.data.annotations.layouts import SPLITS, Row, annotation_file, split_rows
from alpro.data.annotations.media_files import MediaFolder
from alpro.data.annotations.read import CAPTION_KEYS, VIDEO_KEYS, unique_id, without_known_missing
from alpro.data.annotations.records import Question, Record
from alpro.data.annotations.rows import Faults, read_rows, read_text_cell, read_text_cells
from alpro.data.media.extensions import VIDEO_EXTENSIONS, bare_name, is_video_name
from alpro.errors import DataError
from alpro.files.listing import list_files
from alpro.terminal import logs

log = logs.get(__name__)


@dataclass(frozen=True)
class Queries:
    """Videos with their questions or captions, and the row in the file, from 0, of each caption by its id `video#n`."""

    records: list[Record]
    rows: dict[str, int]


def read_queries(dataset: Dataset, path: Path) -> Queries:
    """Read a file of a dataset's layout; answers may be missing, and so may the videos of captions.

    If no caption names its video, all videos in the dataset's folder are candidates. Raises DataError that lists the faults.
    """
    folder, faults = MediaFolder(dataset.videos, "video"), Faults(path)
    read = _questions if dataset.task == "qa" else _captions
    found = read(path, _rows(dataset, path), folder, faults)
    if not found.records:
        raise DataError(f"{path}: has no rows; put the annotations there")
    return Queries(without_known_missing(path, found.records), found.rows)


def _rows(dataset: Dataset, path: Path) -> Iterator[Row]:
    """Yield the rows of a file, in the layout that its name gives; of one table with a column `split`, the test rows."""
    if path == Path(dataset.annotations):
        return split_rows(dataset, "test")
    for split in SPLITS:
        named = dataset.model_copy(update={"annotations": str(path.parent)})
        try:
            if annotation_file(named, split) == path:
                return split_rows(named, split)
        except DataError:  # the folder has no such split
            continue
    return read_rows(path)


def _questions(path: Path, rows: Iterator[Row], folder: MediaFolder, faults: Faults) -> Queries:
    names: dict[str, str] = {}
    questions: dict[str, list[Question]] = {}
    for number, (position, row) in enumerate(rows):
        name = read_text_cell(row, VIDEO_KEYS, position, faults, allow_number=True)
        text = read_text_cell(row, ("question",), position, faults)
        if name is not None and text is not None:
            key = unique_id(names, name, position, faults)
            questions.setdefault(key, []).append(Question(number, text, "", ""))
    faults.check()
    return Queries([Record(key, folder.path(name), questions=tuple(questions[key])) for key, name in names.items()], {})


def _captions(path: Path, rows: Iterator[Row], folder: MediaFolder, faults: Faults) -> Queries:
    names: dict[str, str] = {}
    captions: dict[str | None, list[tuple[int, str]]] = {}
    for number, (position, row) in enumerate(rows):
        named = any(row.get(key) not in (None, "") for key in VIDEO_KEYS)
        name = read_text_cell(row, VIDEO_KEYS, position, faults, allow_number=True) if named else None
        texts = read_text_cells(row, CAPTION_KEYS, position, faults)
        if name is not None or not named:
            key = None if name is None else unique_id(names, name, position, faults)
            captions.setdefault(key, []).extend((number, text) for text in texts)
    faults.check()
    hidden = captions.pop(None, [])
    files = {key: folder.path(name) for key, name in names.items()}
    if hidden and not files:
        files = {bare_name(path.relative_to(folder.root).as_posix()): path for path in _videos(folder.root)}
    if hidden and files:  # the video that a caption belongs to plays no part in its prediction
        captions.setdefault(next(iter(files)), []).extend(hidden)
    records = [Record(key, file, captions=tuple(text for _, text in captions.get(key, []))) for key, file in files.items()]
    rows_of = {f"{key}#{n}": row for key, texts in captions.items() for n, (row, _) in enumerate(texts)}
    return Queries(records, rows_of)


def _videos(folder: Path) -> list[Path]:
    listing = list_files(folder, is_video_name)
    if not listing.names:
        raise DataError(f"{folder}: contains no videos ({', '.join(VIDEO_EXTENSIONS)})")
    for message in listing.messages(folder):
        log.warning("left out: %s", message)
    return [folder / name for name in listing.names]
