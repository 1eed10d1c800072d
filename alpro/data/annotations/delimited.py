"""Reads tables of cells with separators: .csv with quoted cells (RFC 4180), and .tsv without quoting.

A quotation mark that is not closed makes a CSV parser take the following rows for text of the same cell. Such a cell is
reported with the line in which it opens, and reading resumes after this line, so that no row is lost silently.
"""

from __future__ import annotations

import csv
import logging
import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from alpro.errors import DataError

log = logging.getLogger(__name__)
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "validate": "val", "validation": "val", "valid": "val",
               "dev": "val", "test": "test", "testing": "test"}  # fmt: skip
NAME_KEYS = ("clip_name", "video_id", "video", "videoid", "file_name", "image")
MOST_QUOTE_FAULTS = 1000  # after them the rest of a file is not read
REMEDY = 'close the quotation mark, or write "" for one in the text'


class FaultList(Protocol):
    """Receives the faults of a file."""

    def add(self, position: str, fault: str) -> None:
        """Record a fault at a position such as `line 3`."""


def read_delimited(path: Path, faults: FaultList) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (`line N`, cells by column) of a table whose first line names the columns; N is the row's first line.

    A row whose number of cells differs from the header is a fault, for example an unquoted comma in a caption. Raises
    DataError for an empty file or a column that is named twice.
    """
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        quoted = not (path.suffix.lower() == ".tsv" and "\t" in first)
        separator = max(",;\t", key=first.count) if quoted else "\t"
        lines = _Lines(file)
        names: list[str] = []
        quote_faults = 0
        for start, cells, fault in _rows(lines, separator, quoted):
            if not names:
                names = _header(path, cells, fault, 1 + (_opening_line(lines.row, separator) if fault else 0))
                continue
            if fault or (quoted and len(lines.row) > 1 and _swallows(lines.row, names, separator)):
                opening = _opening_line(lines.row, separator)
                quote_faults += 1
                faults.add(f"line {start + opening}", _quote_fault(start + opening, lines.number, fault))
                lines.resume_after(opening + 1)
                if quote_faults == MOST_QUOTE_FAULTS:
                    faults.add(f"line {start + opening}", "too many quoting errors; the rest of the file is not read")
                    return
            elif len(cells) == len(names):
                if not quoted and any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells):
                    _warn_of_quotes(path)
                yield f"line {start}", dict(zip(names, cells, strict=True))
            elif cells:
                remedy = f"quote cells that contain {separator!r}" if quoted else "remove tabs from the texts"
                faults.add(f"line {start}", f"{len(cells)} cells, but {len(names)} columns are named; {remedy}")
    if not names:
        raise DataError(f"{path}: empty; the first line names the columns")


def _rows(lines: _Lines, separator: str, quoted: bool) -> Iterator[tuple[int, list[str], str]]:
    """Yield (first line, cells, fault or "") of each row. A fault, and `resume_after`, make the parser start anew."""
    while True:
        lines.resumed = False
        if quoted:
            parser = csv.reader(lines, delimiter=separator, strict=True)
        else:
            parser = csv.reader(lines, delimiter=separator, strict=True, quoting=csv.QUOTE_NONE)
        while not lines.resumed:
            lines.row = []
            start = lines.number + 1
            try:
                cells = next(parser)
            except StopIteration:
                return
            except csv.Error as error:
                yield start, [], str(error)
                break
            yield start, cells, ""


def _header(path: Path, cells: list[str], fault: str, line: int) -> list[str]:
    names = [name.strip() for name in cells]
    if fault:
        raise DataError(f"{path}: line {line}: {_quote_fault(line, line, fault)}")
    if not any(names):
        raise DataError(f"{path}: empty; the first line names the columns")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: line 1: column {twice[0]!r} is named twice; rename or remove one")
    return names


def _quote_fault(opened: int, last: int, fault: str) -> str:
    if "end of data" in fault:
        return f"the quoted cell that opens here is not closed; {REMEDY}"
    if last == opened:
        return f"the quoted cell that opens here is followed by more text; {REMEDY}"
    return f"the quoted cell that opens here goes on to line {last}, over what may be other rows; {REMEDY}"


# --- quotation marks --------------------------------------------------------------------------------------


class _Lines(Iterator[str]):
    """The lines of a file with their numbers; those of the current row can be read again."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self._again = iter(lines), deque[str]()
        self.row: list[str] = []  # lines of the current row
        self.number = 0  # of the last line read, from 1
        self.resumed = False

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.row.append(line)
        self.number += 1
        return line

    def resume_after(self, count: int) -> None:
        """Return to the line after the first `count` lines of the row."""
        again = self.row[count:]
        self._again.extendleft(reversed(again))
        self.number -= len(again)
        self.resumed = True


def _opening_line(row: list[str], separator: str) -> int:
    """Return the line of a row, from 0, with the quotation mark that opens its first unsound cell, or else of several lines.

    Returns -1 if there is none.
    """
    text = "".join(row)
    starts = [0, *accumulate(map(len, row))]
    several = -1
    for start, end, sound in _quoted_cells(text, separator):
        line = bisect_right(starts, start) - 1
        if not sound:
            return line
        if several < 0 and bisect_right(starts, end) - 1 > line:
            several = line
    return several


def _quoted_cells(text: str, separator: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, True if it is closed and followed by a separator or line end) of each quoted cell of a row."""
    at = 0
    while at < len(text):
        if text[at] != '"':  # an unquoted cell: its quotation marks are text
            following = text.find(separator, at)
            if following < 0:
                return
            at = following + 1
            continue
        end = text.find('"', at + 1)
        while end >= 0 and text[end + 1 : end + 2] == '"':
            end = text.find('"', end + 2)
        sound = end >= 0 and text[end + 1 : end + 2] in ("", separator, "\r", "\n")
        yield at, end if end >= 0 else len(text) - 1, sound
        if not sound:
            return
        at = end + 2


def _swallows(row: list[str], names: list[str], separator: str) -> bool:
    """Return True if a line of a row, after the first, looks like a row itself: a cell per column, with a name and split."""
    keys = [(position, name) for position, name in enumerate(names) if name in NAME_KEYS or name == "split"]
    if not keys and len(names) < 2:
        return False
    for line in row[1:]:
        cells = next(csv.reader([line], delimiter=separator), [])
        if len(cells) == len(names) and all(_is_key(name, cells[position]) for position, name in keys):
            return True
    return False


def _is_key(column: str, cell: str) -> bool:
    cell = cell.strip()
    return cell.lower() in SPLIT_NAMES if column == "split" else bool(cell) and not any(map(str.isspace, cell))


@cache
def _warn_of_quotes(path: Path) -> None:
    log.warning("%s: quotation marks around a cell are part of its text, as a .tsv has no quoting; a .csv has", path)
