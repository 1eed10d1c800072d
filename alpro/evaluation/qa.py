"""Video question answering (paper, section 4.2). Each video is decoded and encoded once; its questions are one batch.

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
from alpro.errors import DataError
from alpro.evaluation import metrics
from alpro.evaluation.clips import Preprocessing, VideoMode
from alpro.evaluation.features import VideoEncoder
from alpro.evaluation.metrics import Calibration
from alpro.evaluation.resume import Arrays, FinishedUnits, ResumeState
from alpro.evaluation.sharing import Progress, compute_distributed, evaluating
from alpro.evaluation.texts import padded_ids, token_ids
from alpro.models import QuestionAnswering

TOP = 5


@dataclass(frozen=True, slots=True)
class Prediction:
    """Prediction of the model for one question."""

    id: int  # the question's row in the annotation file
    video: str
    question: str
    correct_answer: str
    type: str
    top: tuple[tuple[str, float], ...]  # the five likeliest answers with their probabilities, likeliest first
    in_answer_list: bool  # True if the correct answer is in the answer list

    @property
    def predicted(self) -> str:
        """The likeliest answer."""
        return self.top[0][0]

    @property
    def correct(self) -> bool:
        """True if the likeliest answer is correct."""
        return self.predicted == self.correct_answer

    @property
    def in_top(self) -> bool:
        """True if the correct answer is among the five likeliest."""
        return any(answer == self.correct_answer for answer, _ in self.top)


@dataclass(frozen=True)
class QAResult:
    """Result of a QA evaluation: one prediction per question, in the annotation file's order; identical on every rank."""

    predictions: list[Prediction]

    @property
    def correct(self) -> list[bool]:
        """For each question, True if it was answered correctly."""
        return [p.correct for p in self.predictions]

    @property
    def types(self) -> list[str]:
        """Type of each question."""
        return [p.type for p in self.predictions]

    def metrics(self) -> dict[str, object]:
        """Return accuracies in percent under the official names: overall_acc, <type>_acc, ratios."""
        return metrics.qa_metrics(self.correct, self.types)

    def official_metrics(self, world_size: int = 1) -> dict[str, object]:
        """Return the metrics as the released code prints them.

        They are rounded, and padding questions of `world_size` processes count twice.
        """
        return metrics.official_qa_metrics(self.correct, self.types, world_size)

    def flat_metrics(self) -> dict[str, float]:
        """Return the accuracies only, for training logs."""
        return {name: value for name, value in self.metrics().items() if isinstance(value, float)}

    def top5(self) -> float:
        """Return the percentage of questions with the correct answer among the five likeliest."""
        return float(100 * np.mean([p.in_top for p in self.predictions]))

    def calibration(self) -> Calibration:
        """Return the calibration of the likeliest answer's probability."""
        return metrics.calibration([p.top[0][1] for p in self.predictions], self.correct)


def evaluate_qa(
    model: QuestionAnswering,
    records: Sequence[Record],
    tokenizer: Any,
    answers: Mapping[str, int],
    preprocessing: Preprocessing,
    *,
    mode: VideoMode = "full",
    batch_pairs: int = 64,
    progress: Progress | None = None,
    resume: ResumeState | None = None,
) -> QAResult:
    """Answer every question of the records once. All ranks call it and get the same result.

    `answers` maps each answer to its label. Classes without an answer are named `class N` and never count as correct.
    `batch_pairs`: maximum number of questions in a batch. `resume`: saves finished work. Raises DataError for an unreadable
    video or logits that are not finite, CheckpointError if the list does not fit the answer head.
    """
    records_with_questions = [record for record in records if record.questions]
    if not records_with_questions:
        raise DataError("the records have no questions: nothing to answer")
    classes = cast(nn.Linear, model.classifier[-1]).out_features
    check_answer_head(len(answers), classes)
    names = {label: answer for answer, label in answers.items()}
    names = {label: names.get(label, f"class {label}") for label in range(classes)}
    reader = preprocessing.reader(mode)
    with evaluating(model, preprocessing.precision) as device:
        ids = [
            token_ids(tokenizer, [q.text for q in record.questions], preprocessing.max_text_tokens)
            for record in records_with_questions
        ]

        finished, store = None, None
        if resume is not None:
            settings = {"ids": ids, "batch_pairs": batch_pairs, "classes": classes, "task": "qa"}
            folder, store = resume.open(model, reader, records_with_questions, preprocessing.precision, device, **settings)
            finished = FinishedUnits(folder / "answers")
        encoder = VideoEncoder(model, reader, records_with_questions, device, None if reader.is_blind else store)

        def answer(unit: int, video: Tensor) -> Arrays:
            chunks = [ids[unit][start : start + batch_pairs] for start in range(0, len(ids[unit]), batch_pairs)]
            probabilities = np.concatenate([_probabilities(model, chunk, video) for chunk in chunks])
            best = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
            return best, np.take_along_axis(probabilities, best, axis=1)

        # Encoding a frame costs about as much as two pairs of a question and a video (24 and 11 GMAC at the paper's size).
        costs = [2.0 * preprocessing.num_frames + len(record.questions) for record in records_with_questions]
        read_inputs = encoder.units([[unit] for unit in range(len(records_with_questions))])
        results = compute_distributed(costs, answer, read_inputs, progress, finished)
    predictions = [
        _prediction(record, question, labels, probabilities, names, answers)
        for record, (best, of_best) in zip(records_with_questions, results, strict=True)
        for question, labels, probabilities in zip(record.questions, best, of_best, strict=True)
    ]
    return QAResult(sorted(predictions, key=lambda p: p.id))


def _probabilities(model: QuestionAnswering, ids: list[list[int]], video: Tensor) -> np.ndarray:
    """Return the probabilities (B, classes) of the answers to questions on one video (1, 1+N, D)."""
    filled, mask = padded_ids(ids, video.device)
    logits = model.answer(model.encode_text(filled, mask), mask, video.expand(len(ids), -1, -1))
    probabilities = logits.float().softmax(-1)
    if not torch.isfinite(probabilities).all():
        raise DataError("the logits are not finite: the model is broken (NaN weights?); check the checkpoint")
    return probabilities.cpu().numpy()


def _prediction(
    record: Record,
    question: Question,
    labels: np.ndarray,
    probabilities: np.ndarray,
    names: Mapping[int, str],
    answers: Mapping[str, int],
) -> Prediction:
    return Prediction(
        id=question.id,
        video=record.id,
        question=question.text,
        correct_answer=question.answer,
        type=question.type,
        top=tuple((names[int(label)], float(probability)) for label, probability in zip(labels, probabilities, strict=True)),
        in_answer_list=question.answer in answers,
    )
