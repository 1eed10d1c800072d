"""The report's page: one HTML file without external links, readable offline, in light and dark."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from alpro.config import Dataset, Params
from alpro.data.annotations.records import QUESTION_TYPES
from alpro.files.outputs import generator_tag
from alpro.report.baseline import Baseline, baseline_rows
from alpro.report.charts import bar_chart, line_chart
from alpro.report.collect import Curves, EvaluationRecord
from alpro.report.gallery import FilmStrips, gallery
from alpro.report.table import number, title

Entry = Mapping[str, Any]
COMMAND = "alpro report make"
VARIANTS = {"full model": None, "one frame": "one_frame", "blind": "blind"}


def page(
    params: Params,
    summary: Mapping[str, Entry],
    records: Sequence[EvaluationRecord],
    curves: Sequence[Curves],
    baseline: Baseline | None,
) -> str:
    """Return the page as HTML."""
    films = FilmStrips()
    examples = "".join(_gallery(record, params.datasets[record.task], films) for record in records)
    sections = {
        "Results": _results(summary),
        "Pre-training vs. training from scratch": _baseline(baseline),
        "Training": _training(curves),
        "Ranks and answers": _distributions(summary, records),
        "Example test videos": examples,
    }
    sections = {name: content for name, content in sections.items() if content}
    links = "".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in sections)
    body = "".join(f'<section><h2 id="{_anchor(name)}">{name}</h2>{content}</section>' for name, content in sections.items())
    style = files("alpro.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{generator_tag(COMMAND)}'
        f"<title>ALPRO, recipe {escape(params.recipe)}</title><style>\n{style}\n{films.css()}\n</style></head><body>\n"
        f"<header><h1>ALPRO: results of recipe <code>{escape(params.recipe)}</code></h1>"
        "<p>Video-and-language pre-training with entity prompts, evaluated on the test splits. Recall and accuracy are in "
        "percent. Brackets show 95&nbsp;% bootstrap intervals, resampled by video.</p>"
        f"<nav>{links}</nav></header>\n{body}\n</body></html>\n"
    )


# --- tables -----------------------------------------------------------------------------------------------


def _results(summary: Mapping[str, Entry]) -> str:
    retrieval = {name: entry for name, entry in summary.items() if entry["task"] == "retrieval"}
    answering = {name: entry for name, entry in summary.items() if entry["task"] == "qa"}
    tables = []
    if retrieval:
        head = [
            "Text to video",
            "R@1",
            "R@5",
            "R@10",
            "median rank",
            "mean rank",
            "R@1, one frame",
            "R@1, blind",
            "chance",
            "captions",
        ]
        body = [
            [title(name), *(_figure(e, m) for m in ("r1", "r5", "r10", "medianR", "meanR")), _ablation(e, "one_frame", "r1"),
             _ablation(e, "blind", "r1"), number(e["chance"]), str(e["n"])]
            for name, e in retrieval.items()
        ]  # fmt: skip
        tables.append(_table(head, body, main=1))
        head = ["Video to text", "R@1", "R@5", "R@10", "median rank", "mean rank"]
        body = [
            [title(name), *(_figure(e["video2text"], m) for m in ("r1", "r5", "r10", "medianR", "meanR"))]
            for name, e in retrieval.items()
        ]
        tables.append(f"<details><summary>Video to text</summary>{_table(head, body, main=1)}</details>")
    if answering:
        head = ["Question answering", "accuracy", *QUESTION_TYPES, "one frame", "blind", "majority", "questions"]
        body = [
            [title(name), *(_figure(e, f"{kind}_acc") for kind in ("overall", *QUESTION_TYPES)),
             _ablation(e, "one_frame", "overall_acc"), _ablation(e, "blind", "overall_acc"), number(e["majority"]), str(e["n"])]
            for name, e in answering.items()
        ]  # fmt: skip
        tables.append(_table(head, body, main=1))
        tables.append(_motion(answering))
    tables.append(
        '<p class="note">Blind: the same model with black frames. One frame: the same model with the middle frame of each '
        "clip, repeated. The small figures below these show the full model's advantage with its interval, paired by query. "
        "Chance: R@1 of a random ranking. Majority: accuracy of always giving the most frequent answer.</p>"
    )
    return "".join(tables)


def _motion(answering: Mapping[str, Entry]) -> str:
    """Return the table of questions about motion, which a single frame cannot answer."""
    body = []
    for name, entry in answering.items():
        motion = entry.get("motion")
        if motion and motion["n"]:
            cells = [f"{number(motion['acc'])}<small>{_interval(motion['ci95'])}</small>"]
            for ablation in ("one_frame", "blind"):
                result = motion.get(ablation)
                cells.append(f"{number(result['acc'])}<small>{_gain(result['gain'], 'overall_acc')}</small>" if result else "")
            body.append([title(name), *cells, str(motion["n"])])
    return _table(["Questions about motion", "accuracy", "one frame", "blind", "questions"], body, main=1) if body else ""


def _baseline(baseline: Baseline | None) -> str:
    if baseline is None:
        return ""
    body = []
    for row in baseline_rows(baseline):
        gains = ", ".join(f"{gain:+.1f}" for gain in row.gains)
        name = f"{title(row.task)} <small>{escape(row.metric)}</small>"
        body.append([name, number(row.pretrained), number(row.scratch), f"{row.gain:+.1f}<small>{gains}</small>"])
    seeds = ", ".join(map(str, baseline.seeds))
    note = f"Means over the seeds {seeds}. Recipe {baseline.recipe}, {baseline.date}, command "
    head = ["Test split", "pre-trained", "from scratch", "difference, and per seed"]
    return _table(head, body, main=1) + f'<p class="note">{escape(note)}<code>{escape(baseline.command)}</code></p>'


def _table(head: Sequence[str], body: Sequence[Sequence[str]], main: int) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td{' class=main' if n == main else ''}>{cell}</td>" for n, cell in enumerate(row)) + "</tr>"
        for row in body
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _figure(entry: Entry, name: str) -> str:
    if name not in entry:
        return ""
    return f"{number(entry[name])}<small>{_interval(entry['ci95'][name])}</small>"


def _ablation(entry: Entry, ablation: str, name: str) -> str:
    if ablation not in entry:
        return ""
    return f"{number(entry[ablation][name])}<small>{_gain(entry[ablation]['gain'], name)}</small>"


def _gain(gain: Entry, name: str) -> str:
    return f"{gain[name]:+.1f} {_interval(gain['ci95'])}"


def _interval(ends: Sequence[float]) -> str:
    return f"[{number(ends[0])}, {number(ends[1])}]"


# --- charts -----------------------------------------------------------------------------------------------


def _training(curves: Sequence[Curves]) -> str:
    figures = []
    for training in curves:
        train, val = training.splits.get("train", {}), training.splits.get("val", {})
        losses = {name: points for name, points in train.items() if _is_loss(name)}
        losses |= {f"{name} (validation)": points for name, points in val.items() if _is_loss(name)}
        dotted = [name for name in losses if name.endswith("(validation)")]
        figures.append(_chart(f"{training.stage}: loss", line_chart(losses, "step", "loss", dotted)))
        metrics = {name: points for name, points in val.items() if name in ("r1", "r5", "r10", "overall_acc")}
        figures.append(_chart(f"{training.stage}: validation", line_chart(metrics, "step", "percent")))
    return f'<div class="charts">{"".join(figures)}</div>' if any(figures) else ""


def _is_loss(name: str) -> bool:
    return name in ("loss", "vtc", "vtm", "mlm", "pem", "qa") or name.endswith("_loss")


def _distributions(summary: Mapping[str, Entry], records: Sequence[EvaluationRecord]) -> str:
    figures = []
    for record in records:
        if record.kind == "retrieval":
            bars = list(csv.DictReader((record.folder / "plots/rank_histogram.csv").open(encoding="utf-8")))
            series: dict[str, list[float]] = {}
            for bar in bars:
                series.setdefault(bar["direction"], []).append(float(bar["queries"]))
            chart = bar_chart(list(dict.fromkeys(bar["ranks"] for bar in bars)), series, "rank of the correct match", "queries")
        else:
            chart = _by_type(summary[record.name])
        figures.append(_chart(title(record.name), chart))
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def _by_type(entry: Entry) -> str:
    kinds = [kind for kind in ("overall", *QUESTION_TYPES) if f"{kind}_acc" in entry]
    series, intervals = {}, {}
    for name, ablation in VARIANTS.items():
        result = entry if ablation is None else entry.get(ablation)
        if result is not None:
            series[name] = [result[f"{kind}_acc"] for kind in kinds]
            intervals[name] = [result["ci95"][f"{kind}_acc"] for kind in kinds]
    return bar_chart(kinds, series, "question type", "accuracy, percent", intervals)


def _chart(name: str, chart: str) -> str:
    return f"<figure><figcaption>{escape(name)}</figcaption>{chart}</figure>" if chart else ""


def _gallery(record: EvaluationRecord, dataset: Dataset, films: FilmStrips) -> str:
    content = gallery(record, dataset, films)
    return f"<details open><summary>{escape(title(record.name))}</summary>{content}</details>" if content else ""


def _anchor(name: str) -> str:
    return name.lower().replace(".", "").replace(" ", "-")
