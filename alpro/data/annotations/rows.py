"""Reads tables of annotations (.jsonl, .json, .csv, .tsv, .parquet) into rows, each knowing its place in the file."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alpro.errors import DataError

SHOWN_FAULTS = 10  # an error lists so many faults and counts the rest


class Faults:
    """Collects what is wrong with a file, so that one error names it all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[str] = []

    def add(self, where: str, what: str) -> None:
        """Note a fault at a place such as `line 3`."""
        self._lines.append(f"{self.path}: {where}: {what}")

    def check(self) -> None:
        """Raise DataError when there were any."""
        if self._lines:
            more = len(self._lines) - SHOWN_FAULTS
            rest = [f"{self.path}: and {more} more"] if more > 0 else []
            raise DataError("\n".join(self._lines[:SHOWN_FAULTS] + rest))


def read_rows(path: Path, faults: Faults | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of a file; the place is `line N` (where the row ends), or `row N` (from 1) where rows are no lines.

    Every cell of a CSV is text as it stands there. Raises DataError for a missing or broken file, an unknown kind of
    file, and a pickle, which is never opened; for rows that are none, once all others were given, or notes them in `faults`.
    """
    kind = path.suffix.lower()
    if kind in (".pkl", ".pickle"):
        table = path.with_suffix(".csv")
        raise DataError(
            f"{path}: a pickle runs whatever code it holds, so it is not opened; "
            f"`alpro data unpickle {shlex.quote(str(path))} {shlex.quote(str(table))}` converts it and runs none; name the .csv"
        )
    if kind not in _READERS:
        raise DataError(f"{path}: no reader for such a file; give one of {', '.join(sorted(_READERS))}")
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path}: the link leads nowhere (to {path.readlink()})")
    if not path.is_file():
        raise DataError(f"{path}: not found; put the annotation file there, or change its path in params.yaml")
    noted = Faults(path) if faults is None else faults
    try:
        yield from _READERS[kind](path, noted)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start}: not UTF-8; convert the file's encoding") from None
    if faults is None:
        noted.check()


def read_json(path: Path) -> Any:
    """A JSON file's value. Raises DataError as `read_rows` does."""
    if not path.is_file():
        raise DataError(f"{path}: not found; put the file there, or change its path in params.yaml")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: no JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start}: not UTF-8; convert the file's encoding") from None


def _jsonl(path: Path, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                faults.add(f"line {number}, column {error.colno}", f"no JSON: {error.msg}; mend or remove the line")
                continue
            if isinstance(row, dict):
                yield f"line {number}", row
            else:
                faults.add(f"line {number}", f"{_kind(row)} instead of an object; each line is one {{...}}")


def _json(path: Path, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: {_kind(rows)} instead of a list of rows")
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield f"row {number}", row
        else:
            faults.add(f"row {number}", f"{_kind(row)} instead of an object; each row is one {{...}}")


def _csv(path: Path, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row must have as many cells as the first line has names: a caption with a bare comma is no shorter caption."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        separator = max(",;\t", key=first.count)
        file.seek(0)
        table = csv.reader(file, delimiter=separator, strict=True)
        try:
            names = [name.strip() for name in next(table, [])]
            if not names:
                raise DataError(f"{path}: empty; the first line names the columns")
            for cells in table:
                if len(cells) == len(names):
                    yield f"line {table.line_num}", dict(zip(names, cells, strict=True))
                elif cells:
                    what = f"{len(cells)} cells, but {len(names)} columns are named; quote cells that hold {separator!r}"
                    faults.add(f"line {table.line_num}", what)
        except csv.Error as error:  # where the next row starts nobody can tell
            faults.add(f"line {table.line_num}", f"no table: {error}; mend or remove the line")


def _parquet(path: Path, _: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: no Parquet file: {' '.join(str(error).split())}") from None
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    for number, values in enumerate(zip(*columns.values(), strict=True), 1):
        yield f"row {number}", dict(zip(columns, values, strict=True))


_READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
TABLES = tuple(_READERS)  # the extensions of files that `read_rows` reads


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number", bool: "a truth value"}.get(
        type(value), "null" if value is None else type(value).__name__
    )


# --- cells ------------------------------------------------------------------------------------------------


def cell(row: dict[str, Any], keys: tuple[str, ...], where: str, faults: Faults, number_too: bool = False) -> str | None:
    """The first of `keys` that a row has, as text without outer blanks; None, with a fault noted, where it can't be used."""
    key = next((key for key in keys if key in row), None)
    if key is None:
        faults.add(where, f"key {' or '.join(repr(key) for key in keys)} is missing; the row has {', '.join(map(repr, row))}")
        return None
    value = row[key]
    if number_too and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        faults.add(where, f"{key}: {_kind(value)} instead of a text")
        return None
    if not value.strip():
        faults.add(where, f"{key}: empty; give a text or remove the row")
        return None
    return value.strip()


def texts(row: dict[str, Any], keys: tuple[str, ...], where: str, faults: Faults) -> list[str]:
    """As `cell`, where the value may also be a list of texts."""
    key = next((key for key in keys if isinstance(row.get(key), list)), None)
    if key is None:
        text = cell(row, keys, where, faults)
        return [] if text is None else [text]
    found = [cell({key: value}, (key,), where, faults) for value in row[key]]
    if not found:
        faults.add(where, f"{key}: an empty list; give at least one text or remove the row")
    return [text for text in found if text is not None]
