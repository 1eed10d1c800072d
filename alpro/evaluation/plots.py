"""Plots of an evaluation: a CSV for DVC and a PNG of each; the same numbers give the same bytes."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alpro.data.annotations.records import QUESTION_TYPES
from alpro.evaluation import metrics
from alpro.evaluation.clips import VideoMode
from alpro.evaluation.qa import QAResult
from alpro.evaluation.retrieval import RetrievalResult
from alpro.files.atomic import atomic_write

NAMES = {"full": "full model", "blind": "video-blind", "one_frame": "one frame"}
COLORS = {"full": "#2563eb", "blind": "#9ca3af", "one_frame": "#f59e0b", "chance": "#111827"}
MOST_FREQUENT = 12  # answers with their own row and column in the confusion table
OTHER = "(other)"
DIRECTIONS = ("text to video", "video to text")


# --- retrieval --------------------------------------------------------------------------------------------


def plot_retrieval(results: Mapping[VideoMode, RetrievalResult], folder: Path) -> None:
    """Write rank_histogram and recall_curve, each as CSV and PNG."""
    full = results["full"]
    bins = rank_bins(len(full.video_ids))
    counts = [np.histogram(ranks, bins=[*(low for low, _ in bins), np.inf])[0] for ranks in full.ranks]
    labels = [f"{low}" if low == high else f"{low}-{high}" for low, high in bins]
    by_direction = dict(zip(DIRECTIONS, counts, strict=True))
    rows = [
        {"ranks": label, "direction": direction, "queries": int(by_direction[direction][n])}
        for n, label in enumerate(labels)
        for direction in DIRECTIONS
    ]
    write_csv(folder / "rank_histogram.csv", rows)
    figure, axes = _figure("Rank of the right video (and caption)", "rank", "queries")
    x = np.arange(len(bins))
    axes.bar(x - 0.2, counts[0], 0.4, label=DIRECTIONS[0], color=COLORS["full"])
    axes.bar(x + 0.2, counts[1], 0.4, label=DIRECTIONS[1], color=COLORS["one_frame"])
    axes.set_xticks(x, labels, rotation=45 if len(bins) > 8 else 0)
    _save(figure, axes, folder / "rank_histogram.png")

    curve = recall_curve(results)
    write_csv(folder / "recall_curve.csv", curve)
    figure, axes = _figure("Captions whose video is among the first k", "k", "recall@k (%)")
    for mode in (*results, "chance"):
        style = ":" if mode == "chance" else "-"
        axes.plot([r["k"] for r in curve], [r[mode] for r in curve], style, label=NAMES.get(mode, mode), color=COLORS[mode])
    axes.set_ylim(0, 101)
    _save(figure, axes, folder / "recall_curve.png")


def rank_bins(gallery: int) -> list[tuple[int, int]]:
    """Return the ranks (first, last) of each bar: 1, 2, 3, 4-5, 6-10, 11-20, 21-50, ... up to the gallery's size."""
    edges, step = [1, 2, 3, 4, 6, 11], 10
    while edges[-1] <= gallery:
        edges += [2 * step + 1, 5 * step + 1, 10 * step + 1]
        step *= 10
    pairs = [(low, high - 1) for low, high in itertools.pairwise(edges)]
    return [(low, min(high, gallery)) for low, high in pairs if low <= gallery]


def recall_curve(results: Mapping[VideoMode, RetrievalResult], depth: int = 50) -> list[dict[str, float]]:
    """Return recall@k of each video mode and of chance, text to video, for k up to `depth`."""
    gallery = len(results["full"].video_ids)
    rows = []
    for k in range(1, min(depth, gallery) + 1):
        recalls: dict[str, float] = {mode: float(100 * (result.ranks[0] <= k).mean()) for mode, result in results.items()}
        rows.append({"k": k, **recalls, "chance": 100 * k / gallery})
    return rows


# --- question answering -----------------------------------------------------------------------------------


def plot_qa(results: Mapping[VideoMode, QAResult], summary: Mapping[str, Any], folder: Path) -> None:
    """Write accuracy_by_type, accuracy_by_answer, confusion and calibration as CSV, and all but accuracy_by_answer as PNG."""
    full = results["full"]
    _plot_types(results, summary, folder)
    by_answer = metrics.accuracy_by_answer(full.correct, [p.correct_answer for p in full.predictions])
    write_csv(folder / "accuracy_by_answer.csv", [{"answer": a, "count": n, "accuracy": acc} for a, n, acc in by_answer])
    _plot_confusion(full, [answer for answer, _, _ in by_answer[:MOST_FREQUENT]], folder)

    bins = full.calibration().bins
    write_csv(folder / "calibration.csv", bins)
    figure, axes = _figure("Can its confidence be believed?", "probability of the likeliest answer (%)", "accuracy (%)")
    axes.plot([0, 100], [0, 100], ":", color=COLORS["chance"], label="ideal")
    axes.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o-", color=COLORS["full"], label="full model")
    _save(figure, axes, folder / "calibration.png")


def _plot_types(results: Mapping[VideoMode, QAResult], summary: Mapping[str, Any], folder: Path) -> None:
    kinds = [kind for kind in ("overall", *QUESTION_TYPES) if f"{kind}_acc" in summary]
    majority = {"overall": summary["majority"], **summary["majority_by_type"]}
    rows = []
    for kind, mode in itertools.product(kinds, results):
        of_mode = summary if mode == "full" else summary[mode]
        low, high = of_mode["ci95"][f"{kind}_acc"]
        figures = {"accuracy": of_mode[f"{kind}_acc"], "low": low, "high": high, "majority": majority[kind]}
        rows.append({"type": kind, "video": NAMES[mode], **figures})
    write_csv(folder / "accuracy_by_type.csv", rows)
    figure, axes = _figure("Accuracy by question type", "", "accuracy (%)")
    x, width = np.arange(len(kinds)), 0.8 / len(results)
    for n, mode in enumerate(results):
        of_mode = summary if mode == "full" else summary[mode]
        values = np.array([of_mode[f"{kind}_acc"] for kind in kinds])
        ends = np.array([of_mode["ci95"][f"{kind}_acc"] for kind in kinds]).T
        error = np.abs(ends - values)
        axes.bar(x + (n + 0.5) * width - 0.4, values, width, yerr=error, label=NAMES[mode], color=COLORS[mode], capsize=2)
    axes.hlines(
        [majority[kind] for kind in kinds], x - 0.42, x + 0.42, colors=COLORS["chance"], linestyles=":", label="majority"
    )
    axes.set_xticks(x, kinds)
    _save(figure, axes, folder / "accuracy_by_type.png")


def _plot_confusion(full: QAResult, names: Sequence[str], folder: Path) -> None:
    def listed(answer: str) -> str:
        return answer if answer in names else OTHER

    pairs = Counter((listed(p.correct_answer), listed(p.predicted)) for p in full.predictions)
    rows = [
        {"actual": a, "predicted": b, "count": n} for (a, b), n in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    ]
    write_csv(folder / "confusion.csv", rows)
    labels = [*names, OTHER]
    table = np.array([[pairs[(a, b)] for b in labels] for a in labels], float)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure("The most frequent answers: right one (row), given one (column)", "", "", size=(7, 6))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for y, x in zip(*np.nonzero(table), strict=True):
        axes.text(
            x, y, f"{int(table[y, x])}", ha="center", va="center", color="white" if share[y, x] > 0.5 else "#374151", fontsize=7
        )
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.grid(False)
    _save(figure, axes, folder / "confusion.png")


# --- writing ----------------------------------------------------------------------------------------------


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the keys of the first; numbers get at most six decimals."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    atomic_write(path, text.getvalue())


def _figure(title: str, x: str, y: str, size: tuple[float, float] = (6.4, 3.8)) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, axes: Any, path: Path) -> None:
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=4)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})  # matplotlib's version would change the bytes
    atomic_write(path, data.getvalue())
