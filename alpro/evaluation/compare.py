"""Paired comparison of two evaluations of the same queries; used by `alpro compare` and by the promotion gate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpro.errors import DataError
from alpro.evaluation import bootstrap
from alpro.evaluation.metrics import RECALLS
from alpro.files.json_files import read_json_lines

Row = Mapping[str, Any]
HEADLINE = {"retrieval": "text2video.r1", "qa": "overall_acc"}
SAME = ("direction", "id", "video", "text", "question", "answer")  # fields that must agree in both runs


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Comparison of run A with run B: `figures` by official name, recalls and accuracies in percent; difference = A - B."""

    kind: str  # retrieval or qa
    figures: dict[str, bootstrap.Comparison]

    @property
    def headline(self) -> bootstrap.Comparison:
        """R@1 from text to video, or the overall accuracy."""
        return self.figures[HEADLINE[self.kind]]


def compare_runs(a: str | Path, b: str | Path, *, resamples: int = 10_000, seed: int = 0) -> RunComparison:
    """Compare the records of two evaluations (folders with predictions.jsonl) by a paired bootstrap over whole videos.

    Raises DataError if a record is missing or damaged, or if the two evaluations have different queries.
    """
    first, second = _read(Path(a)), _read(Path(b))
    _same_queries(first, second, Path(a), Path(b))
    second_values = _values(second)
    figures = {
        name: bootstrap.compare(values, second_values[name][0], groups=groups, resamples=resamples, seed=seed)
        for name, (values, groups) in _values(first).items()
    }
    return RunComparison("retrieval" if "direction" in first[0] else "qa", figures)


def format_comparison(comparison: RunComparison, as_json: bool = False) -> str:
    """Format a comparison as a table or as JSON: A, B, A - B with its 95 % interval, and the p-value."""
    if as_json:
        figures = {name: asdict(figure) for name, figure in comparison.figures.items()}
        return json.dumps({"kind": comparison.kind, "headline": HEADLINE[comparison.kind], "figures": figures}, indent=1)
    lines = [f"{'':18}{'A':>9}{'B':>9}{'A - B':>9}  {'95 % interval':20}{'p':>7}{'n':>8}"]
    for name, f in comparison.figures.items():
        interval = f"[{f.ci95[0]:.2f}, {f.ci95[1]:.2f}]"
        lines.append(f"{name:18}{f.a:9.2f}{f.b:9.2f}{f.difference:+9.2f}  {interval:20}{f.p_value:7.4f}{f.n:8}")
    return "\n".join(lines)


def _values(rows: Sequence[Row]) -> dict[str, tuple[list[float], list[str]]]:
    """Return the per-query values of each figure, with the video of each query."""
    values: dict[str, tuple[list[float], list[str]]] = {}
    if "direction" in rows[0]:
        for direction in ("text2video", "video2text"):
            queries = [row for row in rows if row["direction"] == direction]
            videos = [row["video"] for row in queries]
            for k in RECALLS:
                values[f"{direction}.r{k}"] = ([100.0 * (row["rank"] <= k) for row in queries], videos)
            values[f"{direction}.meanR"] = ([float(row["rank"]) for row in queries], videos)
        return values
    for kind in ("overall", *sorted({row["type"] for row in rows})):
        questions = [row for row in rows if kind in ("overall", row["type"])]
        values[f"{kind}_acc"] = ([100.0 * row["correct"] for row in questions], [row["video"] for row in questions])
    return values


def _read(folder: Path) -> list[Row]:
    path = folder / "predictions.jsonl"
    record = "give the folder of an evaluation's record, for example reports/evaluate/msrvtt_ret"
    rows: list[Row] = [*read_json_lines(path, DataError, "run the evaluation again", missing_hint=record)]
    needed = {"id", "video", "rank"} if rows and "direction" in rows[0] else {"id", "video", "type", "correct"}
    for number, row in enumerate(rows, 1):
        if missing := needed - set(row):
            raise DataError(f"{path}:{number}: lacks {', '.join(sorted(missing))}; run the evaluation again")
    if not rows:
        raise DataError(f"{path}: holds no queries; run the evaluation again")
    return rows


def _same_queries(first: Sequence[Row], second: Sequence[Row], a: Path, b: Path) -> None:
    if len(first) != len(second):
        raise DataError(f"{a} has {len(first)} queries, {b} has {len(second)}; compare runs on the same data")
    for row, other in zip(first, second, strict=True):
        for key in SAME:
            if row.get(key) != other.get(key):
                raise DataError(
                    f"{a} and {b} have different queries ({key} {row.get(key)!r} and {other.get(key)!r}); "
                    "compare runs on the same data"
                )


def figure(metrics: Mapping[str, Any], name: str) -> tuple[float | None, tuple[float, float] | None]:
    """Look up a figure of metrics.json by its name, such as `text2video.r1`, with its 95 % interval."""

    def at(table: Any) -> Any:
        for part in name.split("."):
            table = table.get(part) if isinstance(table, Mapping) else None
        return table

    interval = at(metrics.get("ci95"))
    return at(metrics), tuple(interval) if interval else None
