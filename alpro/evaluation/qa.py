"""Video question answering with each video decoded and encoded once (paper, section 4.2): all its questions are one batch.

B questions of a video, L text tokens, N patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from alpro.checkpoints.files import check_answer_head
from alpro.data.annotations.records import Question, Record
from alpro.data.media.frames import Strategy
from alpro.errors import DataError
from alpro.evaluation import metrics
from alpro.evaluation.clips import Look, Viewer
from alpro.evaluation.features import VideoEncoder
from alpro.evaluation.metrics import Calibration
from alpro.evaluation.resume import Arrays, Phase, Workplace
from alpro.evaluation.sharing import Progress, evaluating, shared
from alpro.evaluation.texts import padded_ids, token_ids
from alpro.models import QuestionAnswering

TOP = 5


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model said to one question."""

    id: int  # the question's row in the annotation file
    video: str
    question: str
    answer: str  # the right one
    type: str
    top: tuple[tuple[str, float], ...]  # the five likeliest answers with their probabilities, the likeliest first
    known: bool  # whether the right answer is in the answer list at all

    @property
    def predicted(self) -> str:
        """The likeliest answer."""
        return self.top[0][0]

    @property
    def correct(self) -> bool:
        """Whether the likeliest answer is the right one."""
        return self.predicted == self.answer

    @property
    def in_top(self) -> bool:
        """Whether the right answer is among the five likeliest."""
        return any(answer == self.answer for answer, _ in self.top)


@dataclass(frozen=True)
class QAResult:
    """All that a QA evaluation found: one prediction a question, in the annotation file's order; the same on every rank."""

    predictions: list[Prediction]

    @property
    def correct(self) -> list[bool]:
        """Whether each question was answered rightly."""
        return [p.correct for p in self.predictions]

    @property
    def types(self) -> list[str]:
        """Each question's type."""
        return [p.type for p in self.predictions]

    def metrics(self) -> dict[str, object]:
        """Accuracies in percent under the official names: overall_acc, <type>_acc, ratios."""
        return metrics.qa_metrics(self.correct, self.types)

    def official(self, world: int = 1) -> dict[str, object]:
        """The released code's dictionary: rounded, the padding of `world` processes counted twice."""
        return metrics.official_qa_metrics(self.correct, self.types, world)

    def flat(self) -> dict[str, float]:
        """The accuracies alone, for training logs."""
        return {name: value for name, value in self.metrics().items() if isinstance(value, float)}

    def top5(self) -> float:
        """Share of questions with the right answer among the five likeliest, in percent."""
        return float(100 * np.mean([p.in_top for p in self.predictions]))

    def calibration(self) -> Calibration:
        """How far the likeliest answer's probability can be believed."""
        return metrics.calibration([p.top[0][1] for p in self.predictions], self.correct)


def evaluate_qa(
    model: QuestionAnswering,
    records: Sequence[Record],
    tokenizer: Any,
    answers: Mapping[str, int],
    *,
    num_frames: int,
    image_size: int,
    max_text_tokens: int,
    frames_strategy: Strategy = "uniform",
    batch_pairs: int = 64,
    look: Look = "full",
    precision: str = "fp32",
    workers: int = 1,
    decode_size: int | None = None,
    progress: Progress | None = None,
    place: Workplace | None = None,
) -> QAResult:
    """Answer every question of the records once; all ranks call it and get the same result.

    answers: label of each answer; classes of the head beyond the list are named `class N` and are never right.
    `batch_pairs` bounds the questions of one batch. `look`: what the model is shown. `workers`: threads that
    read ahead. `decode_size`: as in training, None for image_size. `place`: where finished work is kept for a resumption.
    Raises DataError for an unreadable video or logits that are not finite, CheckpointError for a list of another length than
    the head's.
    """
    asked = [record for record in records if record.questions]
    if not asked:
        raise DataError("no questions: nothing to answer")
    classes = cast(nn.Linear, model.classifier[-1]).out_features
    check_answer_head(len(answers), classes)
    names = {label: answer for answer, label in answers.items()}
    names = {label: names.get(label, f"class {label}") for label in range(classes)}
    viewer = Viewer(num_frames, frames_strategy, image_size, look, workers, decode_size)
    with evaluating(model, precision) as device:
        ids = [token_ids(tokenizer, [q.text for q in record.questions], max_text_tokens) for record in asked]

        kept, store = None, None
        if place is not None:
            folder, store = place.open(
                model, viewer, asked, precision, device, ids=ids, batch_pairs=batch_pairs, classes=classes, task="qa"
            )
            kept = Phase(folder / "answers")
        encoder = VideoEncoder(model, viewer, asked, device, None if viewer.same_for_all else store)

        def answer(unit: int, video: Tensor) -> Arrays:
            chunks = [ids[unit][start : start + batch_pairs] for start in range(0, len(ids[unit]), batch_pairs)]
            chances = np.concatenate([_probabilities(model, chunk, video) for chunk in chunks])
            best = np.argsort(-chances, axis=1, kind="stable")[:, :TOP]
            return best, np.take_along_axis(chances, best, axis=1)

        # Encoding a frame costs about two pairs of a question and a video (24 and 11 GMAC at the paper's size).
        costs = [2.0 * num_frames + len(record.questions) for record in asked]
        found = shared(costs, answer, encoder.units([[unit] for unit in range(len(asked))]), progress, kept)
    predictions = [
        _prediction(record, question, labels, chances, names, answers)
        for record, (best, probabilities) in zip(asked, found, strict=True)
        for question, labels, chances in zip(record.questions, best, probabilities, strict=True)
    ]
    return QAResult(sorted(predictions, key=lambda p: p.id))


def _probabilities(model: QuestionAnswering, ids: list[list[int]], video: Tensor) -> np.ndarray:
    """(B, classes) for questions on one video (1, 1+N, D)."""
    filled, mask = padded_ids(ids, video.device)
    logits = model.answer(model.encode_text(filled, mask), mask, video.expand(len(ids), -1, -1))
    probabilities = logits.float().softmax(-1)
    if not torch.isfinite(probabilities).all():
        raise DataError("logits are not finite: the model is broken (NaN weights?)")
    return probabilities.cpu().numpy()


def _prediction(
    record: Record,
    question: Question,
    labels: np.ndarray,
    chances: np.ndarray,
    names: Mapping[int, str],
    answers: Mapping[str, int],
) -> Prediction:
    return Prediction(
        id=question.id,
        video=record.id,
        question=question.text,
        answer=question.answer,
        type=question.type,
        top=tuple((names[int(label)], float(chance)) for label, chance in zip(labels, chances, strict=True)),
        known=question.answer in answers,
    )
