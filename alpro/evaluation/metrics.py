"""Metrics of retrieval and question answering: the paper's (section 4), and as the released code computes them.

All are functions of arrays; Q queries, G gallery items. Percentages are 0 to 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpro.data.annotations.records import QUESTION_TYPES
from alpro.errors import DataError

RECALLS = (1, 5, 10)

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


# --- retrieval --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank, from 1, of each query's best-placed correct item; all arrays (Q,).

    `stable`, which the metrics use, keeps the gallery's order among equal scores. `optimistic` puts the correct item first
    among equal scores, `pessimistic` last. `right` and `wrong` count the correct and wrong items that share the best correct
    item's score; the mean over all orders of the ties follows from them.
    """

    stable: Ints
    optimistic: Ints
    pessimistic: Ints
    right: Ints
    wrong: Ints


def rank_queries(scores: Floats, truth: Sequence[Sequence[int]]) -> Ranks:
    """Rank the gallery for each query: scores (Q, G), higher is better; truth[q]: the correct gallery indices.

    Raises DataError for scores that are not finite, a query without a correct item, and shapes that don't match.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or len(truth) != scores.shape[0]:
        raise DataError(f"scores of shape {scores.shape} don't match {len(truth)} queries")
    if not np.isfinite(scores).all():
        raise DataError("the scores are not finite: the model is broken (NaN weights?); check the checkpoint")
    queries = len(scores)
    columns: dict[str, Ints] = {
        name: np.empty(queries, np.int64) for name in ("stable", "optimistic", "pessimistic", "right", "wrong")
    }
    for q, items in enumerate(truth):
        if not len(items):
            raise DataError(f"query {q} has no correct item in the gallery")
        row, right = scores[q], np.asarray(items, np.int64)
        best = row[right].max()
        above = int((row > best).sum())
        equal = np.flatnonzero(row == best)
        first = right[row[right] == best].min()
        columns["right"][q] = np.isin(equal, right).sum()
        columns["wrong"][q] = len(equal) - columns["right"][q]
        columns["optimistic"][q] = above + 1
        columns["pessimistic"][q] = above + 1 + columns["wrong"][q]
        columns["stable"][q] = above + 1 + int((equal < first).sum())
    return Ranks(**columns)


def recall_metrics(ranks: Ints) -> dict[str, float]:
    """Return r1, r5, r10 (percent), medianR and meanR of ranks (Q,)."""
    recalls = {f"r{k}": float(100 * (ranks <= k).mean()) for k in RECALLS}
    return {**recalls, "medianR": float(np.median(ranks)), "meanR": float(ranks.mean())}


def tie_metrics(ranks: Ranks) -> dict[str, dict[str, float]]:
    """Return the metrics under other orders of equal scores: `optimistic`, `pessimistic`, and the `mean` over all orders."""
    mean = {f"r{k}": float(100 * _chance_of_recall(ranks, k).mean()) for k in RECALLS}
    expected = ranks.optimistic + ranks.wrong / (ranks.right + 1)
    mean |= {"medianR": float(np.median(expected)), "meanR": float(expected.mean())}
    return {
        "optimistic": recall_metrics(ranks.optimistic),
        "pessimistic": recall_metrics(ranks.pessimistic),
        "mean": mean,
        "tied_queries": {"share": float((ranks.wrong > 0).mean())},
    }


def chance_recall(right: Sequence[int], gallery: int) -> dict[str, float]:
    """Return r1, r5, r10 and meanR of a random order, if query q has right[q] correct items among `gallery`."""
    counts = np.asarray(right, np.int64)
    none = np.zeros(len(counts), np.int64)
    blind = Ranks(none, none + 1, none, counts, gallery - counts)
    return {f"r{k}": float(100 * _chance_of_recall(blind, k).mean()) for k in RECALLS} | {
        "meanR": float((1 + blind.wrong / (counts + 1)).mean())
    }


def _chance_of_recall(ranks: Ranks, k: int) -> Floats:
    """Return the probability (Q,) that a correct item is among the first k if equal scores are ordered at random."""
    slots = np.clip(k - (ranks.optimistic - 1), 0, None)  # places among the first k that tied items take
    slots = np.minimum(slots, ranks.right + ranks.wrong)
    missed = np.where(
        slots <= ranks.wrong,
        np.exp(_log_choose(ranks.wrong, slots) - _log_choose(ranks.wrong + ranks.right, slots)),
        0.0,
    )
    return np.where(slots > 0, 1 - missed, 0.0)


def _log_choose(n: Ints, k: Ints) -> Floats:
    table = np.array([math.lgamma(i + 1) for i in range(int(n.max()) + 1)])  # log of i!
    return table[n] - table[np.minimum(k, n)] - table[np.maximum(n - k, 0)]


def retrieval_truth(owner: Sequence[int], videos: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return the correct items of both directions; owner[t] is the video of caption t.

    They are ([video] for each caption, [captions...] for each video); a video without captions gets an empty list.
    """
    captions_of: list[list[int]] = [[] for _ in range(videos)]
    for text, video in enumerate(owner):
        captions_of[video].append(text)
    return [[video] for video in owner], captions_of


# --- retrieval, as released -------------------------------------------------------------------------------


def official_ranks(scores: Floats, owner: Sequence[int], decimals: int | None = 4) -> tuple[Ints, Ints]:
    """Return ranks (texts,) and (videos with captions,) as the released code computes them.

    scores (texts, videos) are rounded and sorted by `torch.sort` without `stable`; from video to text only each video's last
    caption counts as correct. owner[t] is the video of caption t.
    """
    import torch

    matrix = np.asarray(scores, np.float64)
    matrix = matrix if decimals is None else np.round(matrix, decimals)
    last_caption = dict(zip(owner, range(len(owner)), strict=True))

    def ranks(rows: Floats, truth: list[int]) -> Ints:
        order = torch.sort(torch.from_numpy(np.ascontiguousarray(rows)), dim=1, descending=True)[1].numpy()
        return (order == np.asarray(truth)[:, None]).argmax(axis=1).astype(np.int64) + 1

    videos = sorted(last_caption)
    return ranks(matrix, list(owner)), ranks(matrix.T[videos], [last_caption[v] for v in videos])


def padded(items: int, world_size: int) -> list[int]:
    """Return indices 0..items-1 with the first ones repeated up to a multiple of `world_size`, as the released sampler does."""
    return list(range(items)) + [index % items for index in range(-items % world_size)]


# --- question answering -----------------------------------------------------------------------------------


def qa_metrics(correct: Sequence[bool], types: Sequence[str]) -> dict[str, object]:
    """Return accuracies in percent: overall_acc, <type>_acc, and ratios {<type>_ratio: [percent of the questions, count]}.

    A type without questions has a ratio but no accuracy. Types beyond the five usual ones are reported too.
    """
    hit, kind = _same_length(correct, types)
    names = [*QUESTION_TYPES, *sorted(set(kind) - set(QUESTION_TYPES))]
    metrics: dict[str, object] = {"overall_acc": float(100 * hit.mean())}
    ratios: dict[str, list[float]] = {}
    for name in names:
        of_type = hit[kind == name]
        ratios[f"{name}_ratio"] = [float(100 * len(of_type) / len(hit)), len(of_type)]
        if len(of_type):
            metrics[f"{name}_acc"] = float(100 * of_type.mean())
    return {**metrics, "ratios": ratios}


def official_qa_metrics(correct: Sequence[bool], types: Sequence[str], world_size: int = 1) -> dict[str, object]:
    """Return the released code's dictionary, in percent rounded to 2 decimals.

    A type without questions has accuracy 0. Questions that its sampler repeats to fill up `world_size` workers count twice
    (printed totals of 72,824 and 13,160).
    """
    hit, kind = _same_length(correct, types)
    counted = padded(len(hit), world_size)
    hit, kind = hit[counted], kind[counted]
    percent = {name: round(float(100 * hit[kind == name].mean()), 2) if name in kind else 0.0 for name in QUESTION_TYPES}
    counts = {name: int((kind == name).sum()) for name in QUESTION_TYPES}
    return {
        "ratios": {f"{name}_ratio": [round(100 * count / len(hit), 2), count] for name, count in counts.items()},
        "overall_acc": round(float(100 * hit.mean()), 2),
        **{f"{name}_acc": percent[name] for name in QUESTION_TYPES},
    }


def accuracy_by_answer(correct: Sequence[bool], answers: Sequence[str]) -> list[tuple[str, int, float]]:
    """Return (answer, count, accuracy in percent), the most frequent answers first."""
    hit, answer = _same_length(correct, answers)
    names, index, count = np.unique(answer, return_inverse=True, return_counts=True)
    hits = np.bincount(index, weights=hit, minlength=len(names))
    order = sorted(range(len(names)), key=lambda i: (-count[i], names[i]))
    return [(str(names[i]), int(count[i]), float(100 * hits[i] / count[i])) for i in order]


def majority(answers: Sequence[str]) -> tuple[str, float]:
    """Return the most frequent answer (ties: first in the alphabet) and the accuracy of always giving it, in percent."""
    names, count = np.unique(np.asarray(answers), return_counts=True)
    best = int(count.argmax())
    return str(names[best]), float(100 * count[best] / count.sum())


@dataclass(frozen=True, slots=True)
class Calibration:
    """Agreement of confidence and accuracy: expected calibration error in percent, and one row per non-empty bin."""

    ece: float
    bins: list[dict[str, float]]  # confidence and accuracy in percent, count


def calibration(confidence: Sequence[float] | Floats, correct: Sequence[bool], bins: int = 15) -> Calibration:
    """Return the calibration over equally wide bins of the top answer's probability (Guo et al., 2017)."""
    sure, hit = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if len(sure) != len(hit) or not len(sure):
        raise DataError(f"{len(sure)} confidences don't match {len(hit)} questions")
    bin_of = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for b in range(bins):
        inside = bin_of == b
        if inside.any():
            rows.append(
                {
                    "confidence": float(100 * sure[inside].mean()),
                    "accuracy": float(100 * hit[inside].mean()),
                    "count": int(inside.sum()),
                }
            )
    return Calibration(float(sum(abs(r["confidence"] - r["accuracy"]) * r["count"] for r in rows) / len(sure)), rows)


def _same_length(correct: Sequence[bool], names: Sequence[str]) -> tuple[Floats, NDArray[np.str_]]:
    hit, kind = np.asarray(correct, np.float64), np.asarray(names, dtype=str)
    if len(hit) != len(kind) or not len(hit):
        raise DataError(f"{len(hit)} results don't match {len(kind)} questions")
    return hit, kind
