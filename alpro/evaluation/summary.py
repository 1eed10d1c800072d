"""What an evaluation is boiled down to: official figures with their intervals, beside chance and the two ablations.

All recalls and accuracies are in percent; `ci95` is a bootstrap interval that draws whole videos with all their texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alpro.evaluation import metrics
from alpro.evaluation.bootstrap import compare, interval
from alpro.evaluation.clips import Look
from alpro.evaluation.qa import Prediction, QAResult
from alpro.evaluation.retrieval import RetrievalResult

Interval = tuple[float, float]
RERANKED = (16, 128)  # depths of re-ranking that are reported beside the full matrix
MotionTest = Callable[[str], bool]  # of a question's text


# --- retrieval --------------------------------------------------------------------------------------------


def summarise_retrieval(looks: Mapping[Look, RetrievalResult], resamples: int) -> dict[str, Any]:
    """Figures of the full model (`looks["full"]`), each ablation's, and by how much the full model is better at R@1.

    `chance` is the R@1 of a random order; `chance_recall` gives its other recalls. `reranked` says what scoring only the
    best of VTC would have cost; where only those were scored, `scored_pairs` is their share in percent.
    """
    full = looks["full"]
    chance = metrics.chance_recall([1] * len(full.texts), len(full.video_ids))
    summary = {
        "n": len(full.texts),
        "videos": len(full.video_ids),
        **_retrieval_figures(full, resamples),
        "ties": full.ties(),
        "chance": chance["r1"],
        "chance_recall": {"r5": chance["r5"], "r10": chance["r10"]},
    }
    if full.rerank is None:
        depths = [None, *(count for count in RERANKED if count < len(full.video_ids))]
        summary["reranked"] = {f"best_{d}" if d else "vtc_alone": full.reranked(d).metrics() for d in depths}
    else:
        summary["scored_pairs"] = float(100 * np.isfinite(full.scores).mean())
    for look, result in looks.items():
        if look != "full":
            gain = compare(_found(full.ranks[0], 1), _found(result.ranks[0], 1), groups=full.owner, resamples=resamples)
            summary[look] = {**_retrieval_figures(result, resamples), "gain": _gain("r1", gain)}
    return summary


def _retrieval_figures(result: RetrievalResult, resamples: int) -> dict[str, Any]:
    text, video = result.ranks
    return {
        **result.metrics(),
        "ci95": {
            "text2video": recall_intervals(text, result.owner, resamples),
            "video2text": recall_intervals(video, None, resamples),
        },
    }


def recall_intervals(ranks: metrics.Ints, groups: Sequence[object] | None, resamples: int) -> dict[str, Interval]:
    """Intervals of r1, r5, r10, medianR and meanR."""
    recalls = {f"r{k}": interval(_found(ranks, k), groups=groups, resamples=resamples) for k in metrics.RECALLS}
    return recalls | {
        "medianR": interval(ranks, statistic="median", groups=groups, resamples=resamples),
        "meanR": interval(ranks, groups=groups, resamples=resamples),
    }


def _found(ranks: metrics.Ints, k: int) -> metrics.Floats:
    return 100.0 * (np.asarray(ranks) <= k)


def retrieval_rows(looks: Mapping[Look, RetrievalResult]) -> list[dict[str, Any]]:
    """One row a query, captions first: its ranks, the score of what is right, and the five best."""
    full = looks["full"]
    rows: list[dict[str, Any]] = []
    for query, video in enumerate(full.owner):
        rows.append({
            "direction": "text2video", "id": full.text_ids[query], "video": full.video_ids[video], "text": full.texts[query],
            "score": _rounded(full.text_order[query, video]), **_ranks(looks, 0, query), "top": _top(full.best_videos(query)),
        })  # fmt: skip
    for query, video in enumerate(full.described_videos):
        right = [t for t, owner in enumerate(full.owner) if owner == video]
        rows.append({
            "direction": "video2text", "id": full.video_ids[video], "video": full.video_ids[video],
            "text": [full.text_ids[t] for t in right],
            "score": _rounded(full.video_order[video, right].max()), **_ranks(looks, 1, query),
            "top": _top(full.best_texts(video)),
        })  # fmt: skip
    return rows


def _ranks(looks: Mapping[Look, RetrievalResult], direction: int, query: int) -> dict[str, int]:
    full = looks["full"]
    ties = (full.text_ranks, full.video_ranks)[direction]
    ranks = {
        "rank": int(full.ranks[direction][query]),
        "rank_optimistic": int(ties.optimistic[query]),
        "rank_pessimistic": int(ties.pessimistic[query]),
    }
    return ranks | {f"rank_{look}": int(r.ranks[direction][query]) for look, r in looks.items() if look != "full"}


# --- question answering -----------------------------------------------------------------------------------


def summarise_qa(looks: Mapping[Look, QAResult], resamples: int, is_motion: MotionTest | None = None) -> dict[str, Any]:
    """Figures of the full model, each ablation's, and by how much the full model is better.

    `majority` is the accuracy of always giving the split's most frequent answer (`majority_by_type`: each type's own).
    `is_motion` says which questions need more than one frame; their accuracy then stands under `motion`.
    """
    full = looks["full"]
    asked = full.predictions
    answer, accuracy = metrics.majority([p.answer for p in asked])
    kinds = sorted({p.type for p in asked})
    summary = {
        "n": len(asked),
        "videos": len({p.video for p in asked}),
        **_qa_figures(asked, resamples),
        "top5_acc": full.top5(),
        "calibration_error": full.calibration().ece,
        "answers_outside_list": float(100 * np.mean([not p.known for p in asked])),
        "majority": accuracy,
        "majority_answer": answer,
        "majority_by_type": {kind: metrics.majority([p.answer for p in asked if p.type == kind])[1] for kind in kinds},
    }
    for look, result in looks.items():
        if look != "full":
            gain = _paired(asked, result.predictions, resamples)
            summary[look] = {**_qa_figures(result.predictions, resamples), "gain": gain}
    if is_motion is not None:
        summary["motion"] = _motion(looks, resamples, is_motion)
    return summary


def _qa_figures(predictions: Sequence[Prediction], resamples: int) -> dict[str, Any]:
    figures = metrics.qa_metrics([p.correct for p in predictions], [p.type for p in predictions])
    ci95 = {"overall_acc": _accuracy_interval(predictions, resamples)}
    for name in figures:
        kind = name.removesuffix("_acc")
        if name != "overall_acc" and name != kind:
            ci95[name] = _accuracy_interval([p for p in predictions if p.type == kind], resamples)
    return {**figures, "ci95": ci95}


def _motion(looks: Mapping[Look, QAResult], resamples: int, is_motion: MotionTest) -> dict[str, Any]:
    of = {look: [p for p in result.predictions if is_motion(p.question)] for look, result in looks.items()}
    if not of["full"]:
        return {"n": 0}
    figures: dict[str, Any] = {"n": len(of["full"]), "acc": 100 * float(np.mean([p.correct for p in of["full"]]))}
    figures["ci95"] = _accuracy_interval(of["full"], resamples)
    for look, predictions in of.items():
        if look != "full":
            figures[look] = {
                "acc": 100 * float(np.mean([p.correct for p in predictions])),
                "ci95": _accuracy_interval(predictions, resamples),
                "gain": _paired(of["full"], predictions, resamples),
            }
    return figures


def _accuracy_interval(predictions: Sequence[Prediction], resamples: int) -> Interval:
    hits = [100.0 * p.correct for p in predictions]
    return interval(hits, groups=[p.video for p in predictions], resamples=resamples)


def _paired(full: Sequence[Prediction], other: Sequence[Prediction], resamples: int) -> dict[str, Any]:
    a, b = ([100.0 * p.correct for p in predictions] for predictions in (full, other))
    return _gain("overall_acc", compare(a, b, groups=[p.video for p in full], resamples=resamples))


def qa_rows(looks: Mapping[Look, QAResult], is_motion: MotionTest | None = None) -> list[dict[str, Any]]:
    """One row a question: what was asked, what is right, the five likeliest answers, and what the ablations said."""
    others = {look: result.predictions for look, result in looks.items() if look != "full"}
    rows = []
    for n, p in enumerate(looks["full"].predictions):
        row: dict[str, Any] = {
            "id": p.id, "video": p.video, "question": p.question, "type": p.type, "answer": p.answer, "known": p.known,
            "correct": p.correct, "top": _top(p.top), **{look: said[n].predicted for look, said in others.items()},
        }  # fmt: skip
        rows.append(row if is_motion is None else {**row, "motion": is_motion(p.question)})
    return rows


def _gain(name: str, comparison: Any) -> dict[str, Any]:
    return {name: comparison.difference, "ci95": comparison.ci95, "p_value": comparison.p_value}


def _top(best: Sequence[tuple[str, float]]) -> list[list[Any]]:
    return [[name, _rounded(score)] for name, score in best]


def _rounded(score: float) -> float:
    return round(float(score), 6)
