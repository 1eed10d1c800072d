"""Videos that are known to be unavailable: those of the official sets, and those listed in known_missing.txt.

If their files are absent, they are left out of every split, which is logged; validation counts them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from alpro.data.media.extensions import bare_name
from alpro.errors import DataError
from alpro.files.atomic import atomic_write

FILE = "known_missing.txt"  # beside the annotations; one name per line, remarks begin with `#`


def known_missing(annotations: str | Path) -> frozenset[str]:
    """Return the names, without extension, that may be absent from the set of this annotation file or folder."""
    annotations = Path(annotations)
    return _official() | _listed((annotations if annotations.is_dir() else annotations.parent) / FILE)


def add_known_missing(folder: str | Path, names: Iterable[str], remark: str) -> Path:
    """Append the names that the list of an annotation folder lacks, under a remark; return the list's path."""
    path = Path(folder) / FILE
    listed = _listed(path)
    if new := [name for name in dict.fromkeys(names) if bare_name(name) not in listed]:
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        line_end = "" if before.endswith("\n") or not before else "\n"
        atomic_write(path, before + line_end + "\n".join([f"# {remark}", *new]) + "\n")
    return path


def _listed(path: Path) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n") if path.is_file() else []
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line}: not UTF-8; convert the file to UTF-8") from None
    return {bare_name(line.strip()) for line in lines if line.strip() and not line.startswith("#")}


@cache
def _official() -> frozenset[str]:
    from alpro.data.sources.registry import registry  # imported here because the media module imports this one

    return frozenset(name for source in registry().values() for name in source.known_missing)
