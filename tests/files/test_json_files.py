"""Damaged JSON files are reported with path, line and reason, as an error of the caller's type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alpro.errors import ConfigError, DataError
from alpro.files.json_files import read_json, read_json_lines, read_json_object, write_json


def test_equal_values_give_equal_bytes_and_nan_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    write_json(tmp_path / "b.json", {"a": "é", "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json", DataError) == read_json_object(tmp_path / "b.json", DataError) == {"a": "é", "b": 1}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "c.json", float("nan"))
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_json, b'{"a": 1,\n"b"}', "line 2, column 4: not valid JSON: Expecting ':' delimiter; copy it again"),
        (read_json, b"\xff", r"line 1: not UTF-8 \(byte 0xff\); copy it again"),
        (read_json_object, b"[]", "not a JSON object; copy it again"),
        (read_json_lines, b'{"a": 1}\n{\n', "line 2: not valid JSON: .*; copy it again"),
        (read_json_lines, b'{"a": 1}\n\n{"a": 2}\n', "line 2: not valid JSON"),
        (read_json_lines, b'{"a": 1}\n[]\n', "line 2: not a JSON object; copy it again"),
    ],
)
def test_damaged_file_is_reported(read: Callable[..., Any], content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"x.json: {message}"):
        read(path, ConfigError, "copy it again")


@pytest.mark.parametrize("read", [read_json, read_json_object, read_json_lines])
def test_error_for_a_missing_file_has_a_hint(read: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.json: not found; copy it$"):
        read(tmp_path / "x.json", DataError, "copy it")
    with pytest.raises(DataError, match=r"x\.json: not found; make it$"):
        read(tmp_path / "x.json", DataError, "copy it", missing_hint="make it")
    with pytest.raises(DataError, match=f"{tmp_path.name}: cannot be read: Is a directory"):
        read(tmp_path, DataError)


@pytest.mark.parametrize("read", [read_json, read_json_object])
def test_byte_order_mark_is_accepted(read: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read(tmp_path / "x.json", DataError) == {"a": 1}
    assert read_json_lines(tmp_path / "x.json", DataError) == [{"a": 1}]


def test_rows_are_split_only_at_newlines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for content, rows in ((b"", []), (b'{"a": 1}', [{"a": 1}]), (b'{"a": 1}\r\n{"a": 2}\r\n', [{"a": 1}, {"a": 2}])):
        path.write_bytes(content)
        assert read_json_lines(path, DataError) == rows
    path.write_text('{"a": "\u2028"}\n', encoding="utf-8")
    assert read_json_lines(path, DataError) == [{"a": "\u2028"}]
