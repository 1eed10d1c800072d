"""Sections of params.yaml on evaluation and on the promotion gate."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    PositiveInt,
)

from alpro.config.base import FilePath, Section


class Evaluation(Section):
    """How a task is evaluated."""

    split: Literal["test", "val"] = "test"
    batch_pairs: PositiveInt = Field(64, description="Text-video pairs per multimodal batch.")
    rerank: PositiveInt | None = Field(None, description="Score only the K best clips of VTC by VTM; null: all.")
    rerank_for: Literal["both", "text2video"] = Field("both", description="Queries that are re-ranked.")
    features: str | None = Field(
        None, description="Folder in which encoded videos are kept for later evaluations; null: they are not kept."
    )
    round_scores: int | None = Field(
        None, description="Round scores to this many decimals before ranking (released code: 4); null: do not round."
    )
    count_padding: bool = Field(
        False,
        description="Count the questions that pad the last batches in the printed accuracy, as the released code does.",
    )
    bootstrap: PositiveInt = Field(1000, description="Bootstrap resamples of the confidence interval.")


class Evaluate(Evaluation):
    """The evaluation of a fine-tuned model."""

    checkpoint: FilePath = Field(description="Checkpoint to evaluate; the recipes name the one that fine-tuning makes.")


class Gate(Section):
    """Conditions under which a candidate becomes the champion (`alpro promote`), in percent or percentage points."""

    threshold: float | None = Field(None, description="Minimum R@1 or overall accuracy; null: no minimum.")
    gain: float = Field(0.0, ge=0, description="Minimum gain in that metric over the champion.")
    p_value: float = Field(0.05, gt=0, le=1, description="Maximum p-value of the paired bootstrap over videos.")
    resamples: PositiveInt = Field(10_000, description="Resamples of the paired bootstrap.")
    recall_margin: float = Field(1.0, ge=0, description="Allowed loss in R@5, R@10 and video-to-text R@1.")
    median_rank_margin: float = Field(0.0, ge=0, description="Allowed increase of the median rank.")
    type_margin: float = Field(2.0, ge=0, description="Allowed loss in the accuracy of each question type.")
    type_queries: PositiveInt = Field(30, description="Question types with fewer questions are listed but not checked.")
