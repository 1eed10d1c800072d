"""Problems found by a validation, each with its file, row and video."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

LISTED = 1000  # problems of each check that are written; the others are only counted


@dataclass(frozen=True, slots=True)
class Problem:
    """A failed expectation on one row or video, or on the whole set if file, place and video are None."""

    set: str
    severity: str  # error or warning
    check: str
    message: str
    split: str | None = None
    file: str | None = None
    place: str | None = None  # in the file: `line 3`, or `row 3` of a table
    video: str | None = None
    value: str | None = None

    def line(self) -> str:
        """Return one line for a terminal: location, message, value."""
        if self.check == "file_readable":  # its message contains file and line
            return self.message
        where = self.file or self.set
        if self.place:
            where += f": {self.place}"
        name = f" {self.video}:" if self.video else ""
        value = f" ({self.value})" if self.value else ""
        return f"{where}:{name} {self.message}{value}"

    def json(self) -> str:
        """Return one line of problems.jsonl."""
        return json.dumps({k: v for k, v in asdict(self).items() if v is not None}, ensure_ascii=False, sort_keys=True)


def problems_of(name: str, result: Any, table: pd.DataFrame) -> tuple[list[Problem], dict[str, int]]:
    """Return the problems of a suite result, at most LISTED for each check, and the number that each failed check found.

    `table` is the validated table; its column `n` identifies GX's unexpected rows.
    """
    problems: list[Problem] = []
    counts: dict[str, int] = {}
    for outcome in result.results:
        meta, severity = outcome.expectation_config.meta, outcome.expectation_config.severity
        level = "error" if severity == "critical" else "warning"
        raised = outcome.exception_info.get("exception_message")
        if raised:
            raise RuntimeError(f"{name}: the check {meta['check']} could not run: {raised}")
        if outcome.success:
            continue
        rows = [] if meta["whole"] else [item["n"] for item in outcome.result.get("unexpected_index_list") or []]
        counts[meta["check"]] = len(rows) or 1
        summary = Problem(name, level, meta["check"], meta["message"])
        if not rows:
            problems.append(replace(summary, message=summary.message.format(observed=outcome.result.get("observed_value"))))
        for row in table.loc[rows[:LISTED]].to_dict("records"):
            location = {"split": row["split"], "file": row["file"], "place": row["place"], "video": _or_none(row["video"])}
            message = row["error"] if meta["check"].startswith("readable") else summary.message
            problems.append(replace(summary, message=message, value=_value(row, outcome.expectation_config.kwargs), **location))
        if len(rows) > LISTED:
            where = "; index.parquet has all of them" if meta["check"].startswith("readable") else ""
            more = f"{len(rows):,} problems, of which the first {LISTED:,} are listed{where}: {summary.message}"
            problems.append(replace(summary, message=more))
    return problems, counts


def _value(row: dict[str, Any], kwargs: dict[str, Any]) -> str | None:
    """Return the value of the checked column; None if it is empty or only repeats the video's name."""
    column = str(kwargs.get("column") or kwargs.get("column_A") or "video")
    column = {"label": "answer", "asked": "text"}.get(column, column)
    value = None if column == "video" else _or_none(row.get(column))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value in (None, "") else str(value)[:200]


def _or_none(value: Any) -> Any:
    return None if pd.isna(value) else value
