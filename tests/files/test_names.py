"""Names and texts that UTF-8 cannot encode are recognised, and shown in a printable form."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from alpro.files.names import encodable, is_text, same_name, shown, text_fault


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        (os.fsdecode(b"caf\xe9.mp4"), r"caf\xe9.mp4"),
        ("half \ud83d", r"half \ud83d"),
        ("two\nlines\x1b[31m", r"two\nlines\x1b[31m"),
        ("café 😀.mp4", "café 😀.mp4"),
    ],
)
def test_names_are_shown_on_one_printable_line(name: str, printed: str) -> None:
    assert shown(name) == shown(Path(name)) == printed
    assert encodable(name).encode("utf-8") and encodable("one\ntwo") == "one\ntwo"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red box \ud83d", r"half of a character, the lone surrogate \ud83d"),
        ("\udc4d at the front", r"the lone surrogate \udc4d"),
        (os.fsdecode(b"caf\xe9"), "not UTF-8 (byte 0xe9)"),
        ("a\0b", "a NUL character"),
    ],
)
def test_texts_that_cannot_be_used_are_explained(text: str, words: str) -> None:
    assert words in text_fault(text)
    assert is_text(text) == ("\0" in text)


def test_sound_texts_have_no_fault() -> None:
    assert not any(map(text_fault, ["", "plain", "café", "cafe\u0301", "😀", "\ufffd", "a\nb\tc"]))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_in_another_unicode_form_is_found(form: str, tmp_path: Path) -> None:
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    for name in ("café ü.mp4", "ascii.mp4", "naïve.mp4"):
        (tmp_path / unicodedata.normalize(form, name)).touch()
    found = same_name(tmp_path / unicodedata.normalize(other, "café ü.mp4"))
    assert found == tmp_path / unicodedata.normalize(form, "café ü.mp4")
    assert same_name(tmp_path / "Ascii.mp4") is None and same_name(tmp_path / "none" / "é.mp4") is None
    assert same_name(tmp_path / "é.mp4") is None
