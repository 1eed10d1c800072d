"""Reads tables of annotations (.jsonl, .json, .csv, .tsv, .parquet) into rows with their position in the file."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alpro.errors import DataError
from alpro.files import json_files

SHOWN_FAULTS = 10  # an error lists this many faults and counts the rest


class Faults:
    """Collects the faults of a file, so that one error reports all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[str] = []

    def add(self, position: str, fault: str) -> None:
        """Record a fault at a position such as `line 3`."""
        self._lines.append(f"{self.path}: {position}: {fault}")

    def check(self) -> None:
        """Raise DataError if there are any faults."""
        if self._lines:
            more = len(self._lines) - SHOWN_FAULTS
            rest = [f"{self.path}: and {more} more"] if more > 0 else []
            raise DataError("\n".join(self._lines[:SHOWN_FAULTS] + rest))


def read_rows(path: Path, faults: Faults | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (position, row) of a table; positions are `line N` (the row's last line) or `row N`, from 1.

    The cells of a CSV are unchanged text. Malformed rows are collected in `faults`, or raised together after all valid
    rows were yielded. Raises DataError for a missing or damaged file, an unknown format, or a pickle, which is never
    opened.
    """
    kind = path.suffix.lower()
    if kind in (".pkl", ".pickle"):
        source, table = shlex.quote(str(path)), shlex.quote(str(path.with_suffix(".csv")))
        raise DataError(
            f"{path}: a pickle can run any code, so it is not opened; "
            f"`alpro data unpickle {source} {table}` converts it without running code; then name the .csv"
        )
    if kind not in _READERS:
        raise DataError(f"{path}: unknown format; give one of {', '.join(sorted(_READERS))}")
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path}: is a broken link (to {path.readlink()}); fix it")
    if not path.is_file():
        raise DataError(f"{path}: not found; put the annotation file there, or change its path in params.yaml")
    collected = Faults(path) if faults is None else faults
    try:
        yield from _READERS[kind](path, collected)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start}: not UTF-8; convert the file to UTF-8") from None
    if faults is None:
        collected.check()


def read_json(path: Path) -> Any:
    """Return the value of a JSON file. Raises DataError like `read_rows`."""
    missing = "put the file there, or change its path in params.yaml"
    return json_files.read_json(path, DataError, "it must be JSON in UTF-8", missing_hint=missing)


def _jsonl(path: Path, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                faults.add(f"line {number}, column {error.colno}", f"not valid JSON: {error.msg}; fix or remove the line")
                continue
            if isinstance(row, dict):
                yield f"line {number}", row
            else:
                faults.add(f"line {number}", f"{_type_name(row)} instead of an object; each line is one {{...}}")


def _json(path: Path, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: {_type_name(rows)} instead of a list of rows")
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield f"row {number}", row
        else:
            faults.add(f"row {number}", f"{_type_name(row)} instead of an object; each row is one {{...}}")


def _csv(path: Path, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield rows; one whose number of cells differs from the header is a fault, for example an unquoted comma in a caption."""
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
                    fault = f"{len(cells)} cells, but {len(names)} columns are named; quote cells that contain {separator!r}"
                    faults.add(f"line {table.line_num}", fault)
        except csv.Error as error:  # the parser cannot recover: the next row boundary is unknown
            faults.add(f"line {table.line_num}", f"not a table row: {error}; fix or remove the line")


def _parquet(path: Path, _: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file: {' '.join(str(error).split())}") from None
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    for number, values in enumerate(zip(*columns.values(), strict=True), 1):
        yield f"row {number}", dict(zip(columns, values, strict=True))


_READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
TABLES = tuple(_READERS)  # the extensions that `read_rows` reads


def _type_name(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number", bool: "a truth value"}.get(
        type(value), "null" if value is None else type(value).__name__
    )


# --- cells ------------------------------------------------------------------------------------------------


def read_text_cell(
    row: dict[str, Any], keys: tuple[str, ...], position: str, faults: Faults, allow_number: bool = False
) -> str | None:
    """Return the first of `keys` in a row as stripped text; if it is missing or unusable, add a fault and return None."""
    key = next((key for key in keys if key in row), None)
    if key is None:
        names = " or ".join(map(repr, keys))
        faults.add(position, f"key {names} is missing; the row has {', '.join(map(repr, row))}")
        return None
    value = row[key]
    if allow_number and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        faults.add(position, f"{key}: {_type_name(value)} instead of a text")
        return None
    if not value.strip():
        faults.add(position, f"{key}: empty; give a text or remove the row")
        return None
    return value.strip()


def read_text_cells(row: dict[str, Any], keys: tuple[str, ...], position: str, faults: Faults) -> list[str]:
    """Return the texts of a cell that is a text or a list of texts; faults are added as in `read_text_cell`."""
    key = next((key for key in keys if isinstance(row.get(key), list)), None)
    if key is None:
        text = read_text_cell(row, keys, position, faults)
        return [] if text is None else [text]
    texts = [read_text_cell({key: value}, (key,), position, faults) for value in row[key]]
    if not texts:
        faults.add(position, f"{key}: an empty list; give at least one text or remove the row")
    return [text for text in texts if text is not None]
