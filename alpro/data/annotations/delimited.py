"""Reads tables of cells with separators: .csv with quoted cells (RFC 4180), and .tsv without quoting.

A quotation mark that is not closed makes a CSV parser take the following rows for text of the same cell. If the parser fails
at the next quotation mark, the cell is reported with the line in which it opens, and reading resumes after this line. If the
cell happens to end soundly, it is reported only if its first line and another one look like rows of this file, and its lines
are not read: text of several lines is valid. In either case no row is lost silently.
"""

from __future__ import annotations

import csv
import re
import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from alpro.errors import DataError
from alpro.terminal import logs

log = logs.get(__name__)
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "validate": "val", "validation": "val", "valid": "val",
               "dev": "val", "test": "test", "testing": "test"}  # fmt: skip
NAME_KEYS = ("clip_name", "video_id", "video", "videoid", "file_name", "image")
SAMPLED_ROWS = 1000  # whose video names show the form of the names in a file
PLAIN = re.compile(r"[a ]*|0")  # forms of names that text has too: words, or a number
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
        quoted = path.suffix.lower() != ".tsv" or ("\t" not in first and ("," in first or ";" in first))
        separator = max(",;\t", key=first.count) if quoted else "\t"
        lines = _Lines(file)
        names: list[str] = []
        forms: set[str] = set()  # of the videos' names
        quote_faults = read = 0
        for start, cells, fault in _rows(lines, separator, quoted):
            if not names:
                names = _header(path, cells, fault, 1 + (_opening_line(lines.row, separator) if fault else 0))
                continue
            read += 1
            if read <= SAMPLED_ROWS or len(lines.row) > 1:
                forms |= _forms(cells, names)
            opening = _opening_line(lines.row, separator) if fault or (quoted and len(lines.row) > 1) else -1
            if fault or (opening >= 0 and _swallows(lines.row[opening:], names, separator, forms)):
                quote_faults += 1
                faults.add(f"line {start + opening}", _quote_fault(start + opening, lines.number, fault))
                if fault:
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
                where = f" in lines {start} to {lines.number}" if len(lines.row) > 1 else ""
                faults.add(f"line {start}", f"{len(cells)} cells{where}, but {len(names)} columns are named; {remedy}")
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
    return (
        f"the quoted cell that opens here continues to line {last}, and its lines look like rows, so they are not read; "
        f"{REMEDY}, or write the text in one line"
    )


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


def _swallows(lines: list[str], names: list[str], separator: str, forms: set[str]) -> bool:
    """Return True if the line with the opening quotation mark and a line after it both look like rows of the file.

    Only one of them does if the quoted cell is sound: the first line if the cell is the last column, the last line if it is
    the first column.
    """
    first = lines[0].rstrip("\r\n").split(separator)
    extra = len(first) - len(names)
    if extra > 0:  # separators in the text, which is quoted because of them
        text = max((position for position, cell in enumerate(first) if cell.startswith('"')), default=0)
        first[text : text + extra + 1] = [separator.join(first[text : text + extra + 1])]
    if not _is_row(first, names, forms):
        return False
    return any(_is_row(next(csv.reader([line], delimiter=separator), []), names, forms) for line in lines[1:])


def _is_row(cells: list[str], names: list[str], forms: set[str]) -> bool:
    """Return True if a line looks like a row: a cell for each column, a split, and a video's name of a form in `forms`.

    Words and numbers are names only if no cell begins with a space, as after a comma in text. So are other forms that the
    file has not had yet.
    """
    if len(cells) != len(names):
        return False
    dense = not any(cell[:1].isspace() for cell in cells)
    for name, cell in zip(names, cells, strict=True):
        if name == "split" and cell.strip(' "').lower() not in SPLIT_NAMES:
            return False
    for position in _name_columns(names):
        cell = cells[position].strip(' "')
        form = _form(cell)
        plain = PLAIN.fullmatch(form) is not None
        known = form in forms and (dense or not plain)
        if not cell or not (known or (dense and not plain and " " not in form)):
            return False
    return True


def _forms(cells: list[str], names: list[str]) -> set[str]:
    """Return the forms of the video names of a row."""
    return {_form(cells[position].strip()) for position in _name_columns(names) if position < len(cells)}


def _name_columns(names: list[str]) -> list[int]:
    """Return the columns of the videos' names: those with a usual name, or else the first."""
    return [position for position, name in enumerate(names) if name in NAME_KEYS] or [0]


def _form(name: str) -> str:
    """Return the form of a name: `a` for each word, `aA` for letters in mixed case, `0` for digits, and all else unchanged."""
    words = re.sub(
        r"[^\W\d_]+", lambda word: "a" if word[0] in (word[0].lower(), word[0].upper(), word[0].capitalize()) else "aA", name
    )
    return re.sub(r"\s+", " ", re.sub(r"\d+", "0", words))


@cache
def _warn_of_quotes(path: Path) -> None:
    log.warning("%s: quotation marks around a cell are part of its text, as a .tsv has no quoting; a .csv has", path)
