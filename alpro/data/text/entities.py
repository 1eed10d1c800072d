"""Reads and writes the entity list of PEM, `unigrams.txt` (paper, section 3.3).

Each line of the file is `word count`, most frequent first; the official file has the same format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from alpro.errors import DataError
from alpro.files.atomic import atomic_write

ENTITY_FILE = "unigrams.txt"


def write_entities(counts: Counter[str], path: str | Path, limit: int | None = None) -> list[str]:
    """Write the `limit` most frequent words (default: all) and return them; ties are sorted alphabetically.

    Raises DataError if there are no words.
    """
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]
    if not ranked:
        raise DataError(f"{path}: the captions contain no nouns; set entities.source in params.yaml to a `unigrams.txt`")
    return write_counts(dict(ranked), path)


def write_counts(counts: Mapping[str, int], path: str | Path) -> list[str]:
    """Write a `unigrams.txt` of these words in their order and return them."""
    atomic_write(path, "".join(f"{word} {count}\n" for word, count in counts.items()))
    return list(counts)


def read_entities(path: str | Path, limit: int | None = None) -> list[str]:
    """Return the first `limit` words of a `unigrams.txt`. Raises DataError like `read_counts`."""
    return list(read_counts(path, limit))


def read_counts(path: str | Path, limit: int | None = None) -> dict[str, int]:
    """Return the first `limit` words of a `unigrams.txt` with their counts, in its order; all if it has fewer.

    Raises DataError if the file is missing or empty, or, with the line number, if a line is malformed or repeats a word.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: not found; create it from the captions with `alpro data entities`") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start}: not UTF-8; give a text file of `word count` lines") from None
    first_line: dict[str, int] = {}
    counts: dict[str, int] = {}
    for line_number, line in enumerate(lines, 1):
        if limit is not None and len(counts) == limit:
            break
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not fields[1].isdecimal():
            raise DataError(f"{path}: line {line_number}: {line!r} is not `word count`; fix the line")
        if fields[0] in first_line:
            earlier = first_line[fields[0]]
            raise DataError(f"{path}: line {line_number}: {fields[0]!r} is a duplicate of line {earlier}; remove one of them")
        first_line[fields[0]], counts[fields[0]] = line_number, int(fields[1])
    if not counts:
        raise DataError(f"{path}: has no words; give a file of `word count` lines")
    return counts
