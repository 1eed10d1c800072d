"""Reads tables of annotations (.jsonl, .json, .csv, .tsv, .parquet) into rows with their position in the file.

A row with a lone surrogate (half of a character, as in the JSON text `\\ud83d`) or a NUL character in any cell is a fault.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from alpro.data.annotations.delimited import NAME_KEYS, read_delimited
from alpro.errors import DataError
from alpro.files import json_files
from alpro.files.names import shown, text_fault

Row = tuple[str, dict[str, Any]]  # (position in the file, cells by key)
MOST_LEVELS = 50  # of lists in lists in a cell
SHOWN_FAULTS = 10  # an error lists this many faults and counts the rest


class Faults:
    """Collects the faults of a file, so that one error reports all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[str] = []
        self._repeated: dict[str, int] = {}  # fault -> number of further rows that have it

    def add(self, position: str, fault: str) -> None:
        """Record a fault at a position such as `line 3`."""
        self._lines.append(f"{position}: {fault}")

    def add_once(self, position: str, fault: str) -> None:
        """Record a fault that many rows may share; it is listed with its first position and the number of other rows."""
        if fault in self._repeated:
            self._repeated[fault] += 1
        else:
            self._repeated[fault] = 0
            self.add(position, fault)

    def check(self) -> None:
        """Raise DataError if there are any faults."""
        if self._lines:
            more = len(self._lines) - SHOWN_FAULTS
            lines = [f"{shown(self.path)}: {line}{self._others(line)}" for line in self._lines[:SHOWN_FAULTS]]
            raise DataError("\n".join([*lines, *([f"{shown(self.path)}: and {more} more"] if more > 0 else [])]))

    def _others(self, line: str) -> str:
        count = self._repeated.get(line.partition(": ")[2], 0)
        return f" (and {count:,} more row{'s' if count > 1 else ''})" if count else ""


def read_rows(path: Path, faults: Faults | None = None) -> Iterator[Row]:
    """Yield (position, row) of a table; positions are `line N` (the row's first line) or `row N`, from 1.

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
        yield from sound_rows(_READERS[kind](path, collected), collected)
    except UnicodeDecodeError:
        raise DataError(f"{path}: {not_utf8(path)}") from None
    if faults is None:
        collected.check()


def sound_rows(rows: Iterable[Row], faults: Faults) -> Iterator[Row]:
    """Yield the rows without lone surrogates and NUL characters; the others are faults."""
    for position, row in rows:
        if _is_plain(row):
            yield position, row
            continue
        fault = next(filter(None, (_cell_fault(key, cell) for key, cell in row.items())), "")
        if fault:
            faults.add(position, fault)
        else:
            yield position, row


def _is_plain(row: dict[str, Any]) -> bool:
    """Return True if a row consists of ASCII texts, as most do; this is quick to see."""
    for key, cell in row.items():
        if type(cell) is not str or not cell.isascii() or "\0" in cell or not key.isascii():
            return False
    return True


def _cell_fault(key: str, cell: Any) -> str:
    """Return the first fault in the texts of a cell, or an empty string."""
    rest = [(key, 0), (cell, 0)]
    while rest:
        value, depth = rest.pop()
        if isinstance(value, str):
            if (not value.isascii() or "\0" in value) and (fault := text_fault(value)):
                return f"{shown(key)}: {fault}"
        elif isinstance(value, (list, dict)):
            if depth == MOST_LEVELS:
                return f"{shown(key)}: nested too deeply; give a text or a list of texts"
            rest += [(item, depth + 1) for item in ([*value, *value.values()] if isinstance(value, dict) else value)]
    return ""


def not_utf8(path: Path) -> str:
    """Return which line of a text file is not UTF-8, and what to do."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                return "not UTF-8 but UTF-16; convert the file to UTF-8"
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"line {number}: not UTF-8 (byte {line[error.start]:#04x}); convert the file to UTF-8"
    return "not UTF-8; convert the file to UTF-8"


def read_json(path: Path) -> Any:
    """Return the value of a JSON file. Raises DataError like `read_rows`."""
    missing = "put the file there, or change its path in params.yaml"
    return json_files.read_json(path, DataError, "it must be JSON in UTF-8", missing_hint=missing)


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Return the object of a .json file, or None if it contains rows: a list, JSON lines, or a single row."""
    if is_json_lines(path):
        return None
    content = read_json(path)
    return content if isinstance(content, dict) and not _is_row(content) else None


def is_json_lines(path: Path) -> bool:
    """Return True if a file contains several JSON objects, one a line."""
    objects = 0
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            if line.strip():
                objects += 1
                if not line.lstrip().startswith("{") or (objects == 1 and not line.rstrip().endswith("}")):
                    return False
            if objects == 2:
                return True
    return False


def _is_row(content: dict[str, Any]) -> bool:
    return any(isinstance(content.get(key), (str, int)) for key in NAME_KEYS)


def _jsonl(path: Path, faults: Faults) -> Iterator[Row]:
    """Yield the rows of JSON lines, or of one list of rows, which a .jsonl may contain too."""
    with path.open(encoding="utf-8-sig") as file:
        first = True
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            row, fault = _parsed(line.rstrip())
            if first and not isinstance(row, dict) and (rows := _all_rows(path)) is not None:
                yield from _listed(rows, faults)
                return
            first = False
            if isinstance(row, dict):
                yield f"line {number}", row
            elif fault:
                faults.add(f"line {number}{fault.column}", f"not valid JSON: {fault}; fix or remove the line")
            else:
                faults.add(f"line {number}", f"{_type_name(row)} instead of an object; each line is one {{...}}")


def _parsed(line: str) -> tuple[Any, json_files.InvalidJSON | None]:
    try:
        return json_files.parse(line), None
    except json_files.InvalidJSON as error:
        return None, error


def _all_rows(path: Path) -> list[Any] | None:
    """Return the rows of a file that is one list, or one row on several lines; else None."""
    content, _ = _parsed(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict) and _is_row(content):
        return [content]
    return content if isinstance(content, list) and all(isinstance(row, dict) for row in content) else None


def _json(path: Path, faults: Faults) -> Iterator[Row]:
    if is_json_lines(path):
        yield from _jsonl(path, faults)
        return
    rows = read_json(path)
    if isinstance(rows, dict) and _is_row(rows):
        rows = [rows]
    if isinstance(rows, dict):
        keys = f" (keys {', '.join(map(repr, list(rows)[:5]))})" if rows else ""
        raise DataError(f"{path}: an object{keys} instead of a list of rows; give the list itself, or JSON lines")
    if not isinstance(rows, list):
        raise DataError(f"{path}: {_type_name(rows)} instead of a list of rows")
    yield from _listed(rows, faults)


def _listed(rows: list[Any], faults: Faults) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield f"row {number}", row
        else:
            faults.add(f"row {number}", f"{_type_name(row)} instead of an object; each row is one {{...}}")


def _parquet(path: Path, _: Faults) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file: {' '.join(str(error).split())}") from None
    twice = [name for name in dict.fromkeys(table.column_names) if table.column_names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} is there twice; rename or remove one")
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    for number, values in enumerate(zip(*columns.values(), strict=True), 1):
        yield f"row {number}", dict(zip(columns, values, strict=True))


_READERS = {".jsonl": _jsonl, ".json": _json, ".csv": read_delimited, ".tsv": read_delimited, ".parquet": _parquet}
TABLES = tuple(_READERS)  # the extensions that `read_rows` reads


def _type_name(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number", bool: "a truth value"}.get(
        type(value), "null" if value is None else type(value).__name__
    )


# --- cells ------------------------------------------------------------------------------------------------


HIDDEN = "; if the answers are hidden, use `alpro predict`"


def missing_key(row: dict[str, Any], keys: tuple[str, ...]) -> str:
    """Return the fault of a row that has none of the keys: the keys that count, those of the row, and what to do."""
    names = " or ".join(map(repr, keys))
    hidden = HIDDEN if keys == ("answer",) else ""
    has = f"the row has {', '.join(map(repr, row))}; rename the right key" if row else "the row is empty; remove it"
    return f"key {names} is missing; {has}{hidden}"


def read_text_cell(
    row: dict[str, Any], keys: tuple[str, ...], position: str, faults: Faults, allow_number: bool = False
) -> str | None:
    """Return the first of `keys` in a row as stripped text; if it is missing or unusable, add a fault and return None."""
    key = next((key for key in keys if key in row), None)
    if key is None:
        faults.add_once(position, missing_key(row, keys))
        return None
    value = row[key]
    if key == "answer" and (value is None or value == ""):
        faults.add(position, f"answer: {'null' if value is None else 'empty'}; give a text or remove the row{HIDDEN}")
        return None
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
