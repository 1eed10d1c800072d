"""alpro/config/evaluation.py: NEW MODULE."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    PositiveInt,
)

from alpro.config.base import Section


class Evaluation(Section):
    """How a task's test split is evaluated."""

    split: Literal["test", "val"] = "test"
    batch_pairs: PositiveInt = Field(64, description="Text-video pairs of one multimodal batch.")
    rerank: PositiveInt | None = Field(None, description="VTM scores only the K best of VTC per query; null: all.")
    rerank_for: Literal["both", "text2video"] = Field("both", description="Which queries are re-ranked.")
    features: str | None = Field(None, description="Folder that keeps encoded videos for later evaluations; null: none does.")
    round_scores: int | None = Field(
        None, description="Decimals to which scores are rounded before ranking (released code: 4)."
    )
    count_padding: bool = Field(
        False,
        description="Of QA's printed figures: count the questions that fill up the last batches too (released code).",
    )
    bootstrap: PositiveInt = Field(1000, description="Resamples of the interval.")


class Evaluate(Evaluation):
    """The evaluation of a fine-tuned model."""

    checkpoint: str = Field(description="What is evaluated; by default what the fine-tuning stage made.")


class Gate(Section):
    """What a candidate must show to become the champion (`alpro promote`); figures in percent or points of it."""

    threshold: float | None = Field(None, description="Least R@1 or overall accuracy of a champion; null: none.")
    gain: float = Field(0.0, ge=0, description="Least gain of that figure over the champion's.")
    p_value: float = Field(0.05, gt=0, le=1, description="Largest p-value of the paired bootstrap over videos.")
    resamples: PositiveInt = Field(10_000, description="Resamples of that bootstrap.")
    recall_margin: float = Field(1.0, ge=0, description="R@5, R@10 and video-to-text R@1 may be so much worse.")
    median_rank_margin: float = Field(0.0, ge=0, description="The median rank may be so much higher.")
    type_margin: float = Field(2.0, ge=0, description="The accuracy of each type of question may be so much worse.")
    type_queries: PositiveInt = Field(30, description="Types with fewer questions are shown, not judged.")
