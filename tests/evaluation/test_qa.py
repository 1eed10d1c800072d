"""Question answering: the fast path equals the naive one, and every question counts once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from alpro.data.annotations.records import Record
from alpro.errors import CheckpointError, DataError
from alpro.evaluation.clips import Preprocessing
from alpro.evaluation.qa import QAResult, evaluate_qa
from tests.evaluation.conftest import ANSWERS

from .naive import answer_probabilities


@pytest.fixture(scope="module")
def naive(qa_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing) -> dict[int, np.ndarray]:
    return answer_probabilities(qa_model, records, tokenizer, preprocessing)


@pytest.fixture(scope="module")
def result(qa_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing) -> QAResult:
    return evaluate_qa(qa_model, records, tokenizer, ANSWERS, preprocessing)


def test_answers_equal_the_naive_loop(result: QAResult, naive: dict[int, np.ndarray]) -> None:
    names = {label: answer for answer, label in ANSWERS.items()}
    assert {p.id for p in result.predictions} == set(naive)
    for p in result.predictions:
        order = np.argsort(-naive[p.id])[:5]
        assert [answer for answer, _ in p.top] == [names[int(label)] for label in order]
        assert np.abs(np.array([chance for _, chance in p.top]) - naive[p.id][order]).max() < 1e-5
    assert len({p.top for p in result.predictions}) == len(naive)  # the model distinguishes questions and videos


def test_each_question_counts_once_in_file_order(result: QAResult, records: list[Record]) -> None:
    asked = sorted(q.id for record in records for q in record.questions)
    assert [p.id for p in result.predictions] == asked
    by_id = {q.id: (record.id, q.text, q.answer, q.type) for record in records for q in record.questions}
    assert all((p.video, p.question, p.correct_answer, p.type) == by_id[p.id] for p in result.predictions)


@pytest.mark.parametrize("size", [2, 3])
def test_any_world_gives_the_same_bits(
    size: int,
    result: QAResult,
    worlds: Callable,
    qa_model: Any,
    records: list[Record],
    tokenizer: Any,
    preprocessing: Preprocessing,
) -> None:
    for other in worlds(size, lambda: evaluate_qa(qa_model, records, tokenizer, ANSWERS, preprocessing)):
        assert other.predictions == result.predictions


def test_batches_do_not_change_answers(
    result: QAResult, qa_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    again = evaluate_qa(qa_model, records, tokenizer, ANSWERS, preprocessing, batch_pairs=2)
    for a, b in zip(result.predictions, again.predictions, strict=True):
        assert [name for name, _ in a.top] == [name for name, _ in b.top]
        assert [chance for _, chance in a.top] == pytest.approx([chance for _, chance in b.top], abs=1e-6)


def test_each_video_is_decoded_and_encoded_once(
    monkeypatch: pytest.MonkeyPatch, qa_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    from alpro.data.batches import clip_frames

    read, encoded = [], []
    original, encode = clip_frames.read_frames, qa_model.encode_video
    monkeypatch.setattr(clip_frames, "read_frames", lambda path, *a, **k: (read.append(path), original(path, *a, **k))[1])
    monkeypatch.setattr(qa_model, "encode_video", lambda pixels: (encoded.append(len(pixels)), encode(pixels))[1])
    evaluate_qa(qa_model, records, tokenizer, ANSWERS, preprocessing)
    asked = [record for record in records if record.questions]
    assert sorted(read) == sorted(record.path for record in asked)
    assert sum(encoded) == len(asked)


def test_answers_outside_the_list_are_never_correct(result: QAResult) -> None:
    unknown = [p for p in result.predictions if p.correct_answer == "unheard"]
    assert unknown and not any(p.in_answer_list or p.correct or p.in_top for p in unknown)
    assert result.top5() >= result.metrics()["overall_acc"]
    assert 0 <= result.calibration().ece <= 100


def test_blind_model_ignores_the_video(
    qa_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = qa_model.encode_video
    monkeypatch.setattr(qa_model, "encode_video", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    same = [replace(r, questions=tuple(replace(q, text="what is it") for q in r.questions)) for r in records]
    blind = evaluate_qa(qa_model, same, tokenizer, ANSWERS, preprocessing, mode="blind")
    assert len({p.predicted for p in blind.predictions}) == 1
    assert encoded == [1]  # the one black clip
    full = evaluate_qa(qa_model, same, tokenizer, ANSWERS, preprocessing)
    assert len({p.top[0][1] for p in full.predictions}) > 1


def test_list_longer_than_the_head_is_refused(
    qa_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    with pytest.raises(CheckpointError, match="has 7 answers, the checkpoint's head 6 classes"):
        evaluate_qa(qa_model, records, tokenizer, {**ANSWERS, "more": 8}, preprocessing)


def test_nan_weights_are_refused(records: list[Record], tokenizer: Any, preprocessing: Preprocessing) -> None:
    from alpro.models import build_model

    from .conftest import SIZES

    model = build_model("qa", num_frames=4, config=SIZES, num_answers=6)
    with torch.no_grad():
        model.classifier[-1].bias.fill_(float("nan"))
    with pytest.raises(DataError, match="not finite"):
        evaluate_qa(model, records, tokenizer, ANSWERS, preprocessing)


def test_data_without_questions_is_refused(
    qa_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    with pytest.raises(DataError, match="no questions"):
        evaluate_qa(qa_model, [replace(r, questions=()) for r in records], tokenizer, ANSWERS, preprocessing)
