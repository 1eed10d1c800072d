"""The table of texts of a folder of videos: found, read in any of the known formats, and matched with the videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpro.data.annotations.delimited import SPLIT_NAMES
from alpro.data.annotations.rows import TABLES, Faults, Row, read_json, read_rows
from alpro.errors import DataError
from alpro.files.listing import list_files
from alpro.files.names import shown, some
from alpro.files.outputs import MANIFEST
from alpro.own_data.columns import Columns, cell_text, find_columns
from alpro.own_data.videos import Videos

LONGEST_TABLE_BYTES = 2**31


@dataclass(frozen=True)
class Text:
    """A caption, or a question with its answer, of a video; `split` is None if the table has none."""

    video: str
    text: str
    answer: str | None = None
    answer_type: str | None = None
    split: str | None = None


@dataclass
class Texts:
    """All usable texts of a set, their source, and the rows that are left out, with position and reason."""

    task: str
    source: str  # files and columns, in words
    texts: list[Text]
    left_out: list[tuple[str, str]] = field(default_factory=list)

    @property
    def videos(self) -> list[str]:
        """Videos with texts, in the order of the table."""
        return list(dict.fromkeys(text.video for text in self.texts))


def read_texts(videos: Videos, tables: Sequence[Path] = (), task: str | None = None) -> Texts | None:
    """Read the texts of a folder's videos: from `tables`, else from the tables in the folder. None if there are none.

    Files named by a split (train.csv, val.csv, test.csv) are one table. Raises DataError for an unreadable table, for a table
    that the caller named but that has no usable rows, and if several tables could be meant.
    """
    found: list[tuple[Path, list[Row], Columns]] = []
    for table in tables or find_tables(videos.folder):
        try:
            rows = list(_rows(table))
        except DataError:
            if tables:
                raise
            continue  # some other file: it is named only if no table is found
        columns = find_columns([row for _, row in rows], lambda name: videos.find(name) is not None, task)
        if columns is not None:
            found.append((table, rows, columns))
        elif tables:
            raise DataError(_unusable(table, rows, videos, task))
    if not found:
        return None
    by_split = all(table.stem.lower() in SPLIT_NAMES for table, _, _ in found)
    if len(found) > 1 and not by_split:
        names = some([table.name for table, _, _ in found], 5)
        raise DataError(f"several tables name these videos ({names}); give the one to use with --table")
    if len({columns for _, _, columns in found}) > 1:
        raise DataError(f"{shown(found[0][0])} and {shown(found[1][0])} have different columns; give them the same ones")
    texts = Texts(found[0][2].task, "", [])
    for table, rows, columns in found:
        _add(texts, table, rows, columns, videos, SPLIT_NAMES.get(table.stem.lower()) if by_split else None)
    texts.source = f"{', '.join(table.name for table, _, _ in found)}; columns {found[0][2].described()}"
    if not texts.texts:
        raise DataError(f"{shown(found[0][0])}: no row has a text for a readable video; fill in {_to_fill(found[0][2])}")
    return texts


def find_tables(folder: Path) -> list[Path]:
    """Return the files of a folder and its sub-folders that may be tables, without folders that a command of ours wrote."""
    names = list_files(folder, lambda name: name.lower().endswith(TABLES)).names
    return [folder / name for name in names if not (folder / name).with_name(MANIFEST).exists()]


def _rows(table: Path) -> Iterator[Row]:
    """Yield the rows of a table; also of a JSON object {video: text}, or of lists by split."""
    if table.suffix.lower() == ".json" and table.is_file():
        content = read_json(table) if table.stat().st_size < LONGEST_TABLE_BYTES else None
        if isinstance(content, dict) and content:
            if all(isinstance(value, (str, list)) and _are_texts(value) for value in content.values()):
                yield from ((f"key {key!r}", {"video": key, "caption": value}) for key, value in content.items())
                return
            if all(key.strip().lower() in SPLIT_NAMES and isinstance(value, list) for key, value in content.items()):
                for key, rows in content.items():
                    objects = ((n, row) for n, row in enumerate(rows, 1) if isinstance(row, dict))
                    yield from ((f"{key}, row {n}", {**row, "split": key}) for n, row in objects)
                return
    yield from read_rows(table)


def _are_texts(value: str | list[Any]) -> bool:
    return isinstance(value, str) or all(isinstance(item, str) for item in value)


def _add(texts: Texts, table: Path, rows: Iterable[Row], columns: Columns, videos: Videos, split: str | None) -> None:
    """Add the usable rows of a table. Raises DataError for rows with an unknown split, and for a video in two splits."""
    faults, splits = Faults(table), {text.video: text.split for text in texts.texts}
    unreadable = {name: reason for name, reason in videos.left_out}
    for position, row in rows:
        name = cell_text(row.get(columns.video)).strip()
        video = videos.find(name)
        if video is None:
            texts.left_out.append((f"{table.name}, {position}", _why_missing(name, videos, unreadable)))
            continue
        own = split or _split(row, columns, position, faults)
        if splits.setdefault(video, own) != own:
            faults.add(position, f"{video!r} is in the splits {splits[video] or 'none'} and {own or 'none'}; put it in one")
        for made in _texts(row, columns, video, own):
            if made.text and made.answer != "":
                texts.texts.append(made)
            else:
                empty = _to_fill(columns) if not made.text else str(columns.answer)
                texts.left_out.append((f"{table.name}, {position}", f"{empty} is empty"))
    faults.check()


def _texts(row: Mapping[str, Any], columns: Columns, video: str, split: str | None) -> Iterator[Text]:
    if columns.question is None:
        cell = row.get(columns.caption or "")
        for item in cell if isinstance(cell, list) else [cell]:
            yield Text(video, " ".join(cell_text(item).split()), split=split)
        return
    kind = cell_text(row.get(columns.answer_type)).strip() if columns.answer_type else ""
    question, answer = (" ".join(cell_text(row.get(name)).split()) for name in (columns.question, columns.answer or ""))
    yield Text(video, question, answer, kind or None, split)


def _split(row: Mapping[str, Any], columns: Columns, position: str, faults: Faults) -> str | None:
    if columns.split is None or not (name := cell_text(row.get(columns.split)).strip().lower()):
        return None
    if name not in SPLIT_NAMES:
        faults.add(position, f"{columns.split}: {name!r} must be train, val or test; fix it, or remove the column")
    return SPLIT_NAMES.get(name)


def _why_missing(name: str, videos: Videos, unreadable: Mapping[str, str]) -> str:
    if not name:
        return "names no video"
    for path, reason in unreadable.items():
        if name in (path, Path(path).name, Path(path).stem):
            return f"{name}: cannot be read: {reason}"
    if videos.is_ambiguous(name):
        return f"{name}: several videos have this name; write it with its folder"
    return f"{name}: no such video in {videos.folder}"


def _to_fill(columns: Columns) -> str:
    return str(columns.question or columns.caption)


def _unusable(table: Path, rows: Sequence[Row], videos: Videos, task: str | None) -> str:
    """Return why a table that the user named cannot be used, and what to do."""
    names = list(dict.fromkeys(name for _, row in rows[:10] for name in row))
    if not rows:
        return f"{shown(table)}: has no rows; give one row for each text"
    if find_columns([row for _, row in rows], lambda name: videos.find(name) is not None) is not None:
        needed = "question and answer" if task == "qa" else "caption"
        return f"{shown(table)}: has no column {needed} (it has {', '.join(names)}); leave out --task, or rename a column"
    if not any(videos.find(cell_text(cell)) for _, row in rows for cell in row.values()):
        return f"{shown(table)}: no column names videos of {videos.folder} (it has {', '.join(names)}); give their file names"
    return f"{shown(table)}: no column has the texts (it has {', '.join(names)}); name it caption, or question and answer"


def unseen_answers(texts: Sequence[Text], train: set[str]) -> tuple[int, int]:
    """Return how many questions have an answer that no training question has, and how many questions there are."""
    known = Counter(text.answer for text in texts if text.video in train)
    return sum(text.answer not in known for text in texts), len(texts)
