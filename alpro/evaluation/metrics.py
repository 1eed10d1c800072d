"""Retrieval and question-answering metrics: the paper's (section 4), and the same figures as the released code computes them.

Everything is a function of arrays; Q queries, G gallery items. Percentages are 0 to 100, as users of ALPRO know them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpro.errors import DataError

RECALLS = (1, 5, 10)
QUESTION_TYPES = ("what", "who", "how", "where", "when")

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


# --- retrieval --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where each query's best-placed right item stands, from 1; all arrays (Q,).

    `stable` is what the metrics use: items of equal score keep the gallery's order. `optimistic` puts the right item
    first among its equals, `pessimistic` last; `right` and `wrong` count the right and the wrong items that share the
    best right item's score, from which the mean over all orders of the ties follows.
    """

    stable: Ints
    optimistic: Ints
    pessimistic: Ints
    right: Ints
    wrong: Ints


def rank_queries(scores: Floats, truth: Sequence[Sequence[int]]) -> Ranks:
    """Rank the gallery for each query: scores (Q, G), higher is better; truth[q]: the gallery indices that are right.

    Raises DataError for scores that are not finite, for a query without a right item, and for shapes that don't fit.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or len(truth) != scores.shape[0]:
        raise DataError(f"scores of shape {scores.shape} don't fit {len(truth)} queries")
    if not np.isfinite(scores).all():
        raise DataError("scores are not finite: the model is broken (NaN weights?)")
    queries = len(scores)
    columns: dict[str, Ints] = {
        name: np.empty(queries, np.int64) for name in ("stable", "optimistic", "pessimistic", "right", "wrong")
    }
    for q, items in enumerate(truth):
        if not len(items):
            raise DataError(f"query {q} has no right item in the gallery")
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
    """r1, r5, r10 (percent), medianR and meanR of ranks (Q,)."""
    found = {f"r{k}": float(100 * (ranks <= k).mean()) for k in RECALLS}
    return {**found, "medianR": float(np.median(ranks)), "meanR": float(ranks.mean())}


def tie_metrics(ranks: Ranks) -> dict[str, dict[str, float]]:
    """What ties could make of the metrics: `optimistic`, `pessimistic`, and `mean` over all orders of equal scores."""
    mean = {f"r{k}": float(100 * _chance_found(ranks, k).mean()) for k in RECALLS}
    expected = ranks.optimistic + ranks.wrong / (ranks.right + 1)
    mean |= {"medianR": float(np.median(expected)), "meanR": float(expected.mean())}
    return {
        "optimistic": recall_metrics(ranks.optimistic),
        "pessimistic": recall_metrics(ranks.pessimistic),
        "mean": mean,
        "tied_queries": {"share": float((ranks.wrong > 0).mean())},
    }


def chance_recall(right: Sequence[int], gallery: int) -> dict[str, float]:
    """What a random order reaches when query q has right[q] right items among `gallery`: r1, r5, r10 and meanR."""
    counts = np.asarray(right, np.int64)
    none = np.zeros(len(counts), np.int64)
    blind = Ranks(none, none + 1, none, counts, gallery - counts)
    return {f"r{k}": float(100 * _chance_found(blind, k).mean()) for k in RECALLS} | {
        "meanR": float((1 + blind.wrong / (counts + 1)).mean())
    }


def _chance_found(ranks: Ranks, k: int) -> Floats:
    """Odds (Q,) that a right item is among the first k when equal scores are in random order."""
    places = np.clip(k - (ranks.optimistic - 1), 0, None)  # of the tied items, so many are among the first k
    places = np.minimum(places, ranks.right + ranks.wrong)
    missed = np.where(
        places <= ranks.wrong,
        np.exp(_log_choose(ranks.wrong, places) - _log_choose(ranks.wrong + ranks.right, places)),
        0.0,
    )
    return np.where(places > 0, 1 - missed, 0.0)


def _log_choose(n: Ints, k: Ints) -> Floats:
    table = np.array([math.lgamma(i + 1) for i in range(int(n.max()) + 1)])  # log of i!
    return table[n] - table[np.minimum(k, n)] - table[np.maximum(n - k, 0)]


def retrieval_truth(owner: Sequence[int], videos: int) -> tuple[list[list[int]], list[list[int]]]:
    """Right items of both directions, from owner[t]: the video of caption t.

    Returns ([video] for each caption, [captions...] for each video); a video without captions gets an empty list.
    """
    captions_of: list[list[int]] = [[] for _ in range(videos)]
    for text, video in enumerate(owner):
        captions_of[video].append(text)
    return [[video] for video in owner], captions_of


# --- retrieval, as released -------------------------------------------------------------------------------


def official_retrieval_metrics(scores: Floats, owner: Sequence[int], decimals: int | None = 4) -> dict[str, dict[str, float]]:
    """The released code's numbers: scores (texts, videos) rounded, `torch.sort` without `stable`, and for video to text
    only each video's last caption counted as right. `owner[t]` is the video of caption t.
    """
    text_ranks, video_ranks = official_ranks(scores, owner, decimals)
    return {"text2video": recall_metrics(text_ranks), "video2text": recall_metrics(video_ranks)}


def official_ranks(scores: Floats, owner: Sequence[int], decimals: int | None = 4) -> tuple[Ints, Ints]:
    """Ranks (texts,) and (videos with captions,) as the released code finds them."""
    import torch

    matrix = np.asarray(scores, np.float64)
    matrix = matrix if decimals is None else np.round(matrix, decimals)
    last_caption = dict(zip(owner, range(len(owner)), strict=True))

    def ranks(rows: Floats, truth: list[int]) -> Ints:
        order = torch.sort(torch.from_numpy(np.ascontiguousarray(rows)), dim=1, descending=True)[1].numpy()
        return (order == np.asarray(truth)[:, None]).argmax(axis=1).astype(np.int64) + 1

    videos = sorted(last_caption)
    return ranks(matrix, list(owner)), ranks(matrix.T[videos], [last_caption[v] for v in videos])


def matrix_from_rows(rows: Sequence[tuple[int, int, float]], texts: int, videos: int) -> Floats:
    """A score matrix (texts, videos) from rows (text, video, score) in which sampler padding repeats pairs: the first counts.

    Raises DataError when a pair is missing.
    """
    matrix = np.full((texts, videos), np.nan)
    for text, video, score in rows:
        if np.isnan(matrix[text, video]):
            matrix[text, video] = score
    if np.isnan(matrix).any():
        text, video = np.argwhere(np.isnan(matrix))[0]
        raise DataError(f"no score for text {text} and video {video}: {int(np.isnan(matrix).sum())} pairs are missing")
    return matrix


def padded(items: int, world: int) -> list[int]:
    """Indices 0..items-1 with the first ones repeated up to a multiple of `world`, as the released sampler counts them."""
    return list(range(items)) + [index % items for index in range(-items % world)]


# --- question answering -----------------------------------------------------------------------------------


def qa_metrics(correct: Sequence[bool], types: Sequence[str]) -> dict[str, object]:
    """Accuracies in percent: overall_acc, <type>_acc, and ratios {<type>_ratio: [percent of the questions, count]}.

    A type without questions has its ratio and no accuracy. Types beyond the five usual ones are reported too.
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


def official_qa_metrics(correct: Sequence[bool], types: Sequence[str], world: int = 1) -> dict[str, object]:
    """The released code's dictionary, in percent rounded to 2 decimals: a type without questions has accuracy 0, and the
    questions that its sampler repeats to fill up `world` workers count twice (printed totals of 72,824 and 13,160).
    """
    hit, kind = _same_length(correct, types)
    seen = padded(len(hit), world)
    hit, kind = hit[seen], kind[seen]
    percent = {name: round(float(100 * hit[kind == name].mean()), 2) if name in kind else 0.0 for name in QUESTION_TYPES}
    counts = {name: int((kind == name).sum()) for name in QUESTION_TYPES}
    return {
        "ratios": {f"{name}_ratio": [round(100 * count / len(hit), 2), count] for name, count in counts.items()},
        "overall_acc": round(float(100 * hit.mean()), 2),
        **{f"{name}_acc": percent[name] for name in QUESTION_TYPES},
    }


def accuracy_by_answer(correct: Sequence[bool], answers: Sequence[str]) -> list[tuple[str, int, float]]:
    """(answer, count, accuracy in percent), the most frequent answers first."""
    hit, answer = _same_length(correct, answers)
    names, index, count = np.unique(answer, return_inverse=True, return_counts=True)
    hits = np.bincount(index, weights=hit, minlength=len(names))
    order = sorted(range(len(names)), key=lambda i: (-count[i], names[i]))
    return [(str(names[i]), int(count[i]), float(100 * hits[i] / count[i])) for i in order]


def majority(answers: Sequence[str]) -> tuple[str, float]:
    """The most frequent answer (the first in the alphabet among equals) and the accuracy of always giving it, in percent."""
    names, count = np.unique(np.asarray(answers), return_counts=True)
    best = int(count.argmax())
    return str(names[best]), float(100 * count[best] / count.sum())


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far confidence and accuracy agree: expected calibration error in percent, and one row a filled bin."""

    ece: float
    bins: list[dict[str, float]]  # confidence and accuracy in percent, count


def calibration(confidence: Sequence[float] | Floats, correct: Sequence[bool], bins: int = 15) -> Calibration:
    """Expected calibration error over equally wide bins of the top answer's probability (Guo et al., 2017)."""
    sure, hit = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if len(sure) != len(hit) or not len(sure):
        raise DataError(f"{len(sure)} confidences don't fit {len(hit)} questions")
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for b in range(bins):
        inside = place == b
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
        raise DataError(f"{len(hit)} results don't fit {len(kind)} questions")
    return hit, kind
