"""Tables of the results for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

Entry = Mapping[str, Any]
TYPES = ("what", "who", "how", "where", "when")


def results_table(summary: Mapping[str, Entry]) -> list[Table]:
    """Return tables of retrieval and question answering for the content of reports/summary.json.

    Print them with `rich.print(*results_table(summary))`.
    """
    tables = []
    retrieval = {name: entry for name, entry in summary.items() if entry["task"] == "retrieval"}
    if retrieval:
        table = make_table(
            "Text-to-video retrieval, percent", "R@1 [95 %]", "R@5", "R@10", "MdR", "chance", "blind", "one\nframe", "n"
        )
        for name, entry in retrieval.items():
            table.add_row(
                title(name), with_interval(entry, "r1"), number(entry["r5"]), number(entry["r10"]), number(entry["medianR"]),
                number(entry["chance"]), ablation(entry, "blind", "r1"), ablation(entry, "one_frame", "r1"), str(entry["n"]),
            )  # fmt: skip
        tables.append(table)
    answering = {name: entry for name, entry in summary.items() if entry["task"] == "qa"}
    if answering:
        table = make_table("Question answering, percent", "accuracy [95 %]", *TYPES, "majority", "blind", "one\nframe", "n")
        for name, entry in answering.items():
            kinds = [number(entry[f"{kind}_acc"]) if f"{kind}_acc" in entry else "" for kind in TYPES]
            table.add_row(
                title(name), with_interval(entry, "overall_acc"), *kinds, number(entry["majority"]),
                ablation(entry, "blind", "overall_acc"), ablation(entry, "one_frame", "overall_acc"), str(entry["n"]),
            )  # fmt: skip
        tables.append(table)
    return tables


def title(name: str) -> str:
    """Return the display name of a task: `msrvtt_ret_zeroshot` -> MSRVTT retrieval, zero-shot."""
    words = {"msrvtt": "MSRVTT", "didemo": "DiDeMo", "msvd": "MSVD"}
    stem, zero_shot = name.removesuffix("_zeroshot"), name.endswith("_zeroshot")
    data, _, task = stem.rpartition("_")
    display = {"ret": f"{words.get(data, data)} retrieval", "qa": f"{words.get(data, data)}-QA"}.get(task, stem)
    return display + (", zero-shot" if zero_shot else "")


def number(value: float) -> str:
    """Format with one decimal, as in the paper's tables."""
    return f"{value:.1f}"


def with_interval(entry: Entry, name: str) -> str:
    """Format a metric with its 95 % interval: `33.9 [31.0, 36.8]`."""
    low, high = entry["ci95"][name]
    return f"{number(entry[name])} [{number(low)}, {number(high)}]"


def ablation(entry: Entry, kind: str, name: str) -> str:
    """Format a metric of an ablation; return an empty string if it was not evaluated."""
    return number(entry[kind][name]) if kind in entry else ""


def make_table(name: str, *columns: str) -> Table:
    """Return a table with a title and a first column for names."""
    table = Table(
        title=Text(name, style="bold"), title_justify="left", header_style="dim", box=None, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("", min_width=9)  # else a narrow terminal shrinks this column first
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
