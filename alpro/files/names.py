"""Texts and file names that UTF-8 cannot encode, and names that look alike but differ in their bytes.

Python holds a byte of a file name or argument that is not UTF-8 as a lone surrogate (PEP 383), and JSON may contain one as
`\\ud83d`, half of a character. Tokenizers, decoders, Parquet and JSON writers all refuse them, so they are reported where
they come in. Nothing is put in their place.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # control characters, line ends, lone surrogates
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def shown(name: str | Path) -> str:
    r"""Return a name on one printable line: `\xe9` for a byte that is not UTF-8, `\n` for a line end."""
    return _UNSHOWN.sub(_escape, str(name))


def brief(name: str | Path, length: int = 80) -> str:
    """Return the first characters of a name that a file may have made long or unprintable, on one printable line."""
    return shown(str(name)[:length])[:length]


def some(names: Sequence[str], count: int = 3) -> str:
    """Return the first names, each in brief, and the number of the others: `a, b, c and 2 more`."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return f"{', '.join(map(brief, names[:count]))}{more}"


def encodable(text: str) -> str:
    """Return a text that can be printed: lone surrogates are escaped, line ends are kept."""
    return text if is_text(text) else _SURROGATE.sub(_escape, text)


def is_text(text: str) -> bool:
    """Return True if a text has no lone surrogate, so that UTF-8 can encode it."""
    return text.isascii() or _SURROGATE.search(text) is None


def text_fault(text: str) -> str:
    """Return why a text cannot be used, or an empty string: it has a lone surrogate or a NUL character."""
    found = None if text.isascii() else _SURROGATE.search(text)
    if found and "\udc80" <= found[0] <= "\udcff":
        return f"is not UTF-8 (byte {ord(found[0]) - 0xDC00:#x}); write it in UTF-8"
    if found:
        return f"has half of a character, the lone surrogate {_escape(found)}; complete or remove it"
    if "\0" in text:
        return "has a NUL character; remove it, and save the file as UTF-8"
    return ""


def same_name(path: Path) -> Path | None:
    """Return the file or folder whose name has the same characters in another Unicode form, or None.

    macOS writes `é` as two code points (NFD) and most other systems as one (NFC); they look alike and are different names.
    """
    if path.name.isascii():
        return None
    try:
        names = sorted(os.listdir(path.parent))
    except (OSError, ValueError):
        return None
    form = unicodedata.normalize("NFC", path.name)
    return next((path.with_name(name) for name in names if unicodedata.normalize("NFC", name) == form), None)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
