"""Summary of an evaluation: official figures with their intervals, compared with chance and the two ablations.

All recalls and accuracies are in percent; `ci95` is a bootstrap interval over whole videos with all their texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alpro.evaluation import metrics
from alpro.evaluation.bootstrap import compare, interval
from alpro.evaluation.clips import VideoMode
from alpro.evaluation.qa import Prediction, QAResult
from alpro.evaluation.retrieval import RetrievalResult

Interval = tuple[float, float]
RERANKED = (16, 128)  # depths of re-ranking reported next to the full matrix
MotionTest = Callable[[str], bool]  # of a question's text


# --- retrieval --------------------------------------------------------------------------------------------


def summarise_retrieval(results: Mapping[VideoMode, RetrievalResult], resamples: int) -> dict[str, Any]:
    """Return the figures of the full model (`results["full"]`), of each ablation, and the full model's gain at R@1.

    `chance` is the R@1 of a random order; `chance_recall` has its other recalls. `reranked` has the figures if only VTC's best
    were scored; if only those were scored, `scored_pairs` is their share in percent.
    """
    full = results["full"]
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
    for mode, result in results.items():
        if mode != "full":
            gain = compare(_recalled(full.ranks[0], 1), _recalled(result.ranks[0], 1), groups=full.owner, resamples=resamples)
            summary[mode] = {**_retrieval_figures(result, resamples), "gain": _gain("r1", gain)}
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
    """Return the intervals of r1, r5, r10, medianR and meanR."""
    recalls = {f"r{k}": interval(_recalled(ranks, k), groups=groups, resamples=resamples) for k in metrics.RECALLS}
    return recalls | {
        "medianR": interval(ranks, statistic="median", groups=groups, resamples=resamples),
        "meanR": interval(ranks, groups=groups, resamples=resamples),
    }


def _recalled(ranks: metrics.Ints, k: int) -> metrics.Floats:
    return 100.0 * (np.asarray(ranks) <= k)


def retrieval_rows(results: Mapping[VideoMode, RetrievalResult]) -> list[dict[str, Any]]:
    """Return one row per query, captions first: its ranks, the score of the correct item, and the five best."""
    full = results["full"]
    rows: list[dict[str, Any]] = []
    for query, video in enumerate(full.owner):
        rows.append({
            "direction": "text2video", "id": full.text_ids[query], "video": full.video_ids[video], "text": full.texts[query],
            "score": _rounded(full.text_order[query, video]), **_ranks(results, 0, query), "top": _top(full.best_videos(query)),
        })  # fmt: skip
    for query, video in enumerate(full.described_videos):
        right = [t for t, owner in enumerate(full.owner) if owner == video]
        rows.append({
            "direction": "video2text", "id": full.video_ids[video], "video": full.video_ids[video],
            "text": [full.text_ids[t] for t in right],
            "score": _rounded(full.video_order[video, right].max()), **_ranks(results, 1, query),
            "top": _top(full.best_texts(video)),
        })  # fmt: skip
    return rows


def _ranks(results: Mapping[VideoMode, RetrievalResult], direction: int, query: int) -> dict[str, int]:
    full = results["full"]
    ties = (full.text_ranks, full.video_ranks)[direction]
    ranks = {
        "rank": int(full.ranks[direction][query]),
        "rank_optimistic": int(ties.optimistic[query]),
        "rank_pessimistic": int(ties.pessimistic[query]),
    }
    return ranks | {f"rank_{mode}": int(r.ranks[direction][query]) for mode, r in results.items() if mode != "full"}


# --- question answering -----------------------------------------------------------------------------------


def summarise_qa(results: Mapping[VideoMode, QAResult], resamples: int, is_motion: MotionTest | None = None) -> dict[str, Any]:
    """Return the figures of the full model, of each ablation, and the full model's gain.

    `majority` is the accuracy of always giving the split's most frequent answer (`majority_by_type`: each type's own).
    `is_motion` returns True for questions that need more than one frame; `motion` then has their accuracy.
    """
    full = results["full"]
    predictions = full.predictions
    answer, accuracy = metrics.majority([p.correct_answer for p in predictions])
    kinds = sorted({p.type for p in predictions})
    summary = {
        "n": len(predictions),
        "videos": len({p.video for p in predictions}),
        **_qa_figures(predictions, resamples),
        "top5_acc": full.top5(),
        "calibration_error": full.calibration().ece,
        "answers_outside_list": float(100 * np.mean([not p.in_answer_list for p in predictions])),
        "majority": accuracy,
        "majority_answer": answer,
        "majority_by_type": {
            kind: metrics.majority([p.correct_answer for p in predictions if p.type == kind])[1] for kind in kinds
        },
    }
    for mode, result in results.items():
        if mode != "full":
            gain = _paired(predictions, result.predictions, resamples)
            summary[mode] = {**_qa_figures(result.predictions, resamples), "gain": gain}
    if is_motion is not None:
        summary["motion"] = _motion(results, resamples, is_motion)
    return summary


def _qa_figures(predictions: Sequence[Prediction], resamples: int) -> dict[str, Any]:
    figures = metrics.qa_metrics([p.correct for p in predictions], [p.type for p in predictions])
    ci95 = {"overall_acc": _accuracy_interval(predictions, resamples)}
    for name in figures:
        kind = name.removesuffix("_acc")
        if name != "overall_acc" and name != kind:
            ci95[name] = _accuracy_interval([p for p in predictions if p.type == kind], resamples)
    return {**figures, "ci95": ci95}


def _motion(results: Mapping[VideoMode, QAResult], resamples: int, is_motion: MotionTest) -> dict[str, Any]:
    by_mode = {mode: [p for p in result.predictions if is_motion(p.question)] for mode, result in results.items()}
    if not by_mode["full"]:
        return {"n": 0}
    figures: dict[str, Any] = {"n": len(by_mode["full"]), "acc": 100 * float(np.mean([p.correct for p in by_mode["full"]]))}
    figures["ci95"] = _accuracy_interval(by_mode["full"], resamples)
    for mode, predictions in by_mode.items():
        if mode != "full":
            figures[mode] = {
                "acc": 100 * float(np.mean([p.correct for p in predictions])),
                "ci95": _accuracy_interval(predictions, resamples),
                "gain": _paired(by_mode["full"], predictions, resamples),
            }
    return figures


def _accuracy_interval(predictions: Sequence[Prediction], resamples: int) -> Interval:
    hits = [100.0 * p.correct for p in predictions]
    return interval(hits, groups=[p.video for p in predictions], resamples=resamples)


def _paired(full: Sequence[Prediction], other: Sequence[Prediction], resamples: int) -> dict[str, Any]:
    a, b = ([100.0 * p.correct for p in predictions] for predictions in (full, other))
    return _gain("overall_acc", compare(a, b, groups=[p.video for p in full], resamples=resamples))


def qa_rows(results: Mapping[VideoMode, QAResult], is_motion: MotionTest | None = None) -> list[dict[str, Any]]:
    """Return one row per question: its text, the correct answer, the five likeliest, and the ablations' answers."""
    ablations = {mode: result.predictions for mode, result in results.items() if mode != "full"}
    rows = []
    for n, p in enumerate(results["full"].predictions):
        row: dict[str, Any] = {
            "id": p.id, "video": p.video, "question": p.question, "type": p.type, "answer": p.correct_answer,
            "known": p.in_answer_list, "correct": p.correct, "top": _top(p.top),
            **{mode: other[n].predicted for mode, other in ablations.items()},
        }  # fmt: skip
        rows.append(row if is_motion is None else {**row, "motion": is_motion(p.question)})
    return rows


def _gain(name: str, comparison: Any) -> dict[str, Any]:
    return {name: comparison.difference, "ci95": comparison.ci95, "p_value": comparison.p_value}


def _top(best: Sequence[tuple[str, float]]) -> list[list[Any]]:
    return [[name, _rounded(score)] for name, score in best]


def _rounded(score: float) -> float:
    return round(float(score), 6)
