"""JSON and JSON Lines files, with or without a byte order mark.

A file that cannot be used raises an error of the caller's type with path, line and reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alpro.errors import AlproError
from alpro.files.atomic import atomic_write


class InvalidJSON(ValueError):
    """A text is not JSON, or an object has a key twice; `line` and `column` are text to add to a message, or empty."""

    def __init__(self, reason: str, line: str = "", column: str = "") -> None:
        super().__init__(reason)
        self.line, self.column = line, column


def parse(text: str) -> Any:
    """Return the value of a JSON text. Raises InvalidJSON, also for a duplicate key, of which JSON would keep the last."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as fault:
        raise InvalidJSON(fault.msg, f"line {fault.lineno}, column {fault.colno}: ", f", column {fault.colno}") from None
    except RecursionError:
        raise InvalidJSON("it is nested too deeply") from None
    except InvalidJSON:
        raise
    except ValueError:  # Python's limit for whole numbers
        raise InvalidJSON("a number has more than 4,300 digits") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidJSON(f"key {twice!r} is given twice in one object; remove one")
    return content


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON with sorted keys, so that equal values give equal bytes. Raises ValueError for NaN, which JSON lacks."""
    atomic_write(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path, error: type[AlproError], hint: str = "", *, missing_hint: str | None = None) -> Any:
    """Return the value in a JSON file. Raises `error` if the file is missing or damaged.

    The message ends with `hint`, which says what to do; `missing_hint` replaces it if the file does not exist.
    """
    path = Path(path)
    text = _read_text(path, error, hint, missing_hint)
    try:
        return parse(text)
    except InvalidJSON as fault:
        raise error(_message(path, f"{fault.line}not valid JSON: {fault}", hint)) from None


def read_json_object(
    path: str | Path, error: type[AlproError], hint: str = "", *, missing_hint: str | None = None
) -> dict[str, Any]:
    """Return the JSON object in a file. Raises `error` as `read_json` does, and if the value is not an object."""
    content = read_json(path, error, hint, missing_hint=missing_hint)
    if not isinstance(content, dict):
        raise error(_message(Path(path), "not a JSON object", hint))
    return content


def read_json_lines(
    path: str | Path, error: type[AlproError], hint: str = "", *, missing_hint: str | None = None
) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file, one object a line. Raises `error` as `read_json` does, with the line number."""
    path = Path(path)
    text = _read_text(path, error, hint, missing_hint)
    rows = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        try:
            row = parse(line)
        except InvalidJSON as fault:
            raise error(_message(path, f"line {number}: not valid JSON: {fault}", hint)) from None
        if not isinstance(row, dict):
            raise error(_message(path, f"line {number}: not a JSON object", hint))
        rows.append(row)
    return rows


def _read_text(path: Path, error: type[AlproError], hint: str, missing_hint: str | None) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise error(_message(path, "not found", hint if missing_hint is None else missing_hint)) from None
    except UnicodeDecodeError as fault:
        line = fault.object.count(b"\n", 0, fault.start) + 1
        raise error(_message(path, f"line {line}: not UTF-8 (byte {fault.object[fault.start]:#04x})", hint)) from None
    except OSError as fault:
        raise error(_message(path, f"cannot be read: {fault.strerror or fault}", hint)) from None


def _message(path: Path, reason: str, hint: str) -> str:
    return f"{path}: {reason}" + (f"; {hint}" if hint else "")
