"""The report's page: one HTML file without external links, readable offline, in light and dark."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alpro.config import Params
from alpro.data.annotations.records import QUESTION_TYPES
from alpro.report.baseline import Baseline, baseline_rows
from alpro.report.charts import Bar, Chart, Line, bar_chart, line_chart
from alpro.report.collect import Curves, EvaluationRecord
from alpro.report.gallery import FilmStrips, gallery
from alpro.report.table import number, title
from alpro.report.templating import render

Entry = Mapping[str, Any]
COMMAND = "alpro report make"
VARIANTS = {"full model": None, "one frame": "one_frame", "blind": "blind"}
RETRIEVAL = ("r1", "r5", "r10", "medianR", "meanR")
NAMES = ("R@1", "R@5", "R@10", "median rank", "mean rank")


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table, with a small line below."""

    text: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page; its first column has names, the second the main figure."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its title."""

    title: str
    chart: Chart


def page(
    params: Params,
    summary: Mapping[str, Entry],
    records: Sequence[EvaluationRecord],
    curves: Sequence[Curves],
    baseline: Baseline | None,
) -> str:
    """Return the page as HTML."""
    films = FilmStrips()
    galleries = [
        {"title": title(record.name), "examples": examples}
        for record in records
        if (examples := gallery(record, params.datasets[record.task], films))
    ]
    return render(
        "report.html",
        "alpro.report",
        command=COMMAND,
        title=f"ALPRO, recipe {params.recipe}",
        recipe=params.recipe,
        results=_results(summary),
        baseline=_baseline(baseline) if baseline else None,
        training=_training(curves),
        answers=_distributions(summary, records),
        galleries=galleries,
        films=films,
    )


# --- tables -----------------------------------------------------------------------------------------------


def _results(summary: Mapping[str, Entry]) -> dict[str, Any]:
    """Return the tables of retrieval, of its other direction, and of question answering."""
    retrieval = {name: entry for name, entry in summary.items() if entry["task"] == "retrieval"}
    answering = {name: entry for name, entry in summary.items() if entry["task"] == "qa"}
    motion = _motion(answering)
    return {
        "retrieval": [_retrieval(retrieval)] if retrieval else [],
        "video_to_text": _video_to_text(retrieval) if retrieval else None,
        "answering": [*([_answering(answering)] if answering else []), *([motion] if motion.rows else [])],
    }


def _retrieval(entries: Mapping[str, Entry]) -> Table:
    head = ["Text to video", *NAMES, "R@1, one frame", "R@1, blind", "chance", "captions"]
    rows = [
        [Cell(title(name)), *(_figure(e, m) for m in RETRIEVAL), _ablation(e, "one_frame", "r1"), _ablation(e, "blind", "r1"),
         Cell(number(e["chance"])), Cell(str(e["n"]))]
        for name, e in entries.items()
    ]  # fmt: skip
    return Table(head, rows)


def _video_to_text(entries: Mapping[str, Entry]) -> Table:
    rows = [[Cell(title(name)), *(_figure(e["video2text"], m) for m in RETRIEVAL)] for name, e in entries.items()]
    return Table(["Video to text", *NAMES], rows)


def _answering(entries: Mapping[str, Entry]) -> Table:
    rows = [
        [Cell(title(name)), *(_figure(e, f"{kind}_acc") for kind in ("overall", *QUESTION_TYPES)),
         _ablation(e, "one_frame", "overall_acc"), _ablation(e, "blind", "overall_acc"), Cell(number(e["majority"])),
         Cell(str(e["n"]))]
        for name, e in entries.items()
    ]  # fmt: skip
    return Table(["Question answering", "accuracy", *QUESTION_TYPES, "one frame", "blind", "majority", "questions"], rows)


def _motion(answering: Mapping[str, Entry]) -> Table:
    """Return the table of questions about motion, which a single frame cannot answer."""
    rows = []
    for name, entry in answering.items():
        motion = entry.get("motion")
        if motion and motion["n"]:
            cells = [Cell(number(motion["acc"]), _interval(motion["ci95"]))]
            for ablation in ("one_frame", "blind"):
                result = motion.get(ablation)
                cells.append(Cell(number(result["acc"]), _gain(result["gain"], "overall_acc")) if result else Cell())
            rows.append([Cell(title(name)), *cells, Cell(str(motion["n"]))])
    return Table(["Questions about motion", "accuracy", "one frame", "blind", "questions"], rows)


def _baseline(baseline: Baseline) -> dict[str, Any]:
    rows = []
    for row in baseline_rows(baseline):
        gains = ", ".join(f"{gain:+.1f}" for gain in row.gains)
        figures = ((row.pretrained, row.pretrained_stdev), (row.scratch, row.scratch_stdev))
        cells = [Cell(number(mean), f"± {number(deviation)}") for mean, deviation in figures]
        rows.append([Cell(title(row.task), row.metric), *cells, Cell(f"{row.gain:+.1f}", gains)])
    return {
        "table": Table(["Test split", "pre-trained", "from scratch", "difference, and per seed"], rows),
        "seeds": ", ".join(map(str, baseline.seeds)),
        "recipe": baseline.recipe,
        "date": baseline.date,
        "command": baseline.command,
    }


def _figure(entry: Entry, name: str) -> Cell:
    return Cell(number(entry[name]), _interval(entry["ci95"][name])) if name in entry else Cell()


def _ablation(entry: Entry, ablation: str, name: str) -> Cell:
    return Cell(number(entry[ablation][name]), _gain(entry[ablation]["gain"], name)) if ablation in entry else Cell()


def _gain(gain: Entry, name: str) -> str:
    return f"{gain[name]:+.1f} {_interval(gain['ci95'])}"


def _interval(ends: Sequence[float]) -> str:
    return f"[{number(ends[0])}, {number(ends[1])}]"


# --- charts -----------------------------------------------------------------------------------------------


def _training(curves: Sequence[Curves]) -> list[Figure]:
    figures = []
    for training in curves:
        train, val = training.splits.get("train", {}), training.splits.get("val", {})
        losses = [Line(name, points, "training") for name, points in train.items() if _is_loss(name)]
        losses += [Line(name, points, "validation") for name, points in val.items() if _is_loss(name)]
        metrics = [Line(name, points) for name, points in val.items() if name in ("r1", "r5", "r10", "overall_acc")]
        figures += _drawn(f"{training.stage}: loss", line_chart(losses, "step", "loss"))
        figures += _drawn(f"{training.stage}: validation", line_chart(metrics, "step", "percent"))
    return figures


def _is_loss(name: str) -> bool:
    return name in ("loss", "vtc", "vtm", "mlm", "pem", "qa") or name.endswith("_loss")


def _distributions(summary: Mapping[str, Entry], records: Sequence[EvaluationRecord]) -> list[Figure]:
    figures = []
    for record in records:
        chart = _ranks(record) if record.kind == "retrieval" else _by_type(summary[record.name])
        figures += _drawn(title(record.name), chart)
    return figures


def _ranks(record: EvaluationRecord) -> Chart | None:
    rows = csv.DictReader((record.folder / "plots/rank_histogram.csv").open(encoding="utf-8"))
    bars = [Bar(row["ranks"], row["direction"], float(row["queries"])) for row in rows]
    return bar_chart(bars, "rank of the correct match", "queries")


def _by_type(entry: Entry) -> Chart | None:
    bars = []
    for kind in (kind for kind in ("overall", *QUESTION_TYPES) if f"{kind}_acc" in entry):
        for name, ablation in VARIANTS.items():
            result = entry if ablation is None else entry.get(ablation)
            if result is not None:
                low, high = result["ci95"][f"{kind}_acc"]
                bars.append(Bar(kind, name, result[f"{kind}_acc"], (low, high)))
    return bar_chart(bars, "question type", "accuracy, percent")


def _drawn(name: str, chart: Chart | None) -> list[Figure]:
    return [Figure(name, chart)] if chart else []
