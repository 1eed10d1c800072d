"""The result of the check as a table for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from alpro.checks.gpu.steps import Result
from alpro.files.json_files import write_json

STYLES = {"passed": "green", "skipped": "yellow", "failed": "bold red"}


def figures_text(result: Result) -> str:
    """Return a step's figures, and its reason or fault, in one text."""
    figures = "; ".join(f"{name} {_number(value)}" for name, value in result.figures.items())
    return "; ".join(text for text in (result.detail, figures) if text)


def result_table(results: Sequence[Result]) -> Table:
    """Return the table of all steps for `rich.print`."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("step", min_width=20)
    table.add_column("result")
    table.add_column("figures", overflow="fold")
    table.add_column("s", justify="right")
    for result in results:
        status = Text(result.status, style=STYLES[result.status])
        table.add_row(result.name, status, Text(figures_text(result)), f"{result.seconds:.0f}")
    return table


def verdict(results: Sequence[Result]) -> str:
    """Return the numbers of passed, skipped and failed steps in one line."""
    counts = {status: sum(result.status == status for result in results) for status in STYLES}
    seconds = sum(result.seconds for result in results)
    return ", ".join(f"{count} {status}" for status, count in counts.items()) + f" in {seconds:.0f} s"


def write_results(path: Path, results: Sequence[Result], setting: dict[str, Any]) -> None:
    """Write all results as JSON."""
    write_json(path, {"setting": setting, "verdict": verdict(results), "steps": [asdict(result) for result in results]})


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
