"""What a run shows in Prefect: its stages, its results, and what validation found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.stages import Outcome, short


@dataclass(frozen=True, slots=True)
class Done:
    """A stage that ended well."""

    stage: str
    outcome: Outcome
    seconds: float


def publish(done: Sequence[Done], root: Path, experiment: str | None) -> None:
    """Make the run's artifacts from what its stages wrote."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    rows = [{"stage": short(one.stage), "outcome": one.outcome, "seconds": f"{one.seconds:.1f}"} for one in done]
    create_table_artifact(rows, key="stages", description=f"Saved as experiment `{experiment}`" if experiment else None)
    names = {short(one.stage) for one in done}
    if results := result_rows(root, names):
        create_table_artifact(results, key="results", description="Figures of the evaluated splits, in percent")
    if text := validation_text(root, names):
        create_markdown_artifact(text, key="validation", description="Great Expectations")


def result_rows(root: Path, stages: set[str]) -> list[dict[str, Any]]:
    """One row an evaluation that these stages made: every figure of its metrics.json that is a number, by its official name."""
    rows = []
    for stage in sorted(stages):
        kind, _, task = stage.partition("@")
        folder = {"evaluate": task, "zeroshot": f"{task}_zeroshot"}.get(kind)
        metrics = _read(root / "reports" / "evaluate" / folder / "metrics.json") if folder else None
        if metrics:
            figures = {**metrics, **metrics.get("text2video", {})}
            rows.append({"task": folder, **{name: _shown(value) for name, value in figures.items() if _is_number(value)}})
    columns = {name: None for row in rows for name in row}
    return [{name: row.get(name, "") for name in columns} for row in rows]


def validation_text(root: Path, stages: set[str]) -> str | None:
    """A table of what validation found in each set, with the way to its Data Docs; None where nothing was validated."""
    lines = []
    for stage in sorted(stages):
        kind, _, name = stage.partition("@")
        folder = root / "reports" / "validate" / name
        figures = _read(folder / "metrics.json") if kind.startswith("validate") else None
        if figures:
            failed = ", ".join(f"{check} {count}" for check, count in figures["checks"].items()) or "nothing"
            lines.append(f"| {name} | {figures['errors']} | {figures['warnings']} | {failed} | `{folder / 'index.html'}` |")
    head = ["| set | errors | warnings | found | Data Docs |", "|---|---|---|---|---|"]
    return "\n".join([*head, *lines]) if lines else None


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"
