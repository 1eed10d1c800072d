"""The log of which samples each committed step was made of: JSON lines of step, processes and ids, none twice, none missing.

A step is committed once no kill can undo it: with the resume state on disk, or in every process of an elastic training.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alpro.files.atomic import atomic_write

Row = dict[str, Any]  # {"step": 3, "processes": 2, "ids": [...]}


class SampleLog:
    """The file, of the first rank."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def resume(self, step: int, rows: Iterable[Row]) -> None:
        """Forget the steps after `step`, and take those rows that a kill kept from being written."""
        kept = [row for row in self.rows() if row["step"] <= step]
        last = kept[-1]["step"] if kept else 0
        kept += [row for row in rows if row["step"] > last]
        atomic_write(self.path, "".join(_line(row) for row in kept))

    def extend(self, rows: Iterable[Row]) -> None:
        """Add committed steps. Raises OSError when the disk refuses."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(_line(row) for row in rows))
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[Row]:
        """All whole lines."""
        if not self.path.exists():
            return []
        return [
            json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"
        ]


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
