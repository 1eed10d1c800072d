"""Oracles of the tests: the released code's retrieval metrics, and its score matrix with padded samplers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alpro.errors import DataError
from alpro.evaluation.metrics import Floats, official_ranks, recall_metrics


def official_retrieval_metrics(scores: Floats, owner: Sequence[int], decimals: int | None = 4) -> dict[str, dict[str, float]]:
    """Return the released code's metrics of scores (texts, videos) in both directions (see `metrics.official_ranks`)."""
    text_ranks, video_ranks = official_ranks(scores, owner, decimals)
    return {"text2video": recall_metrics(text_ranks), "video2text": recall_metrics(video_ranks)}


def matrix_from_rows(rows: Sequence[tuple[int, int, float]], texts: int, videos: int) -> Floats:
    """Return the score matrix (texts, videos) from rows (text, video, score); the first of repeated pairs counts.

    Raises DataError if a pair is missing.
    """
    matrix = np.full((texts, videos), np.nan)
    for text, video, score in rows:
        if np.isnan(matrix[text, video]):
            matrix[text, video] = score
    if np.isnan(matrix).any():
        text, video = np.argwhere(np.isnan(matrix))[0]
        raise DataError(f"no score for text {text} and video {video}: {int(np.isnan(matrix).sum())} pairs are missing")
    return matrix
