"""Sample log: JSON lines with step, processes and sample ids of each committed step, each step exactly once.

A step is committed once no kill can undo it: when it is in a snapshot on disk, or in the memory of every process of an
elastic training.
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
    """The log file; only rank 0 writes it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def resume(self, step: int, committed: Iterable[Row]) -> None:
        """Drop rows after `step`, and append committed rows that a killed process had not written."""
        rows = [row for row in self.rows() if row["step"] <= step]
        last = rows[-1]["step"] if rows else 0
        rows += [row for row in committed if row["step"] > last]
        atomic_write(self.path, "".join(_line(row) for row in rows))

    def extend(self, rows: Iterable[Row]) -> None:
        """Append committed steps. Raises OSError if they can't be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(_line(row) for row in rows))
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[Row]:
        """Return the complete lines of the file."""
        if not self.path.exists():
            return []
        return [
            json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"
        ]


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
