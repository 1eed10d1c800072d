"""Videos that nobody has: known ones of the official sets, and those that a user lists in known_missing.txt.

They are left out of every split, with a line in the log, where their files are indeed absent; validation counts them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alpro.data.media_files import bare_name
from alpro.data.sources.registry import registry

FILE = "known_missing.txt"  # beside the annotations; a name a line, `#` before a remark


def known_missing(annotations: str | Path) -> frozenset[str]:
    """Names, without extension, that may be missing of a set whose annotation file or folder this is."""
    annotations = Path(annotations)
    listed = (annotations if annotations.is_dir() else annotations.parent) / FILE
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    return _official() | {bare_name(line.strip()) for line in lines if line.strip() and not line.startswith("#")}


@cache
def _official() -> frozenset[str]:
    return frozenset(name for source in registry().values() for name in source.known_missing)
