"""Retrieval: the fast path equals the naive one for every batch size, world size and mode of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from alpro.data.annotations.records import Record
from alpro.errors import ConfigError, DataError
from alpro.evaluation import metrics
from alpro.evaluation.clips import ClipReader, Preprocessing
from alpro.evaluation.retrieval import Ranking, RetrievalResult, evaluate_retrieval

from . import oracles
from .naive import retrieval_scores


@pytest.fixture(scope="module")
def naive(retrieval_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing) -> np.ndarray:
    return retrieval_scores(retrieval_model, records, tokenizer, preprocessing, chunk=4)


@pytest.fixture(scope="module")
def result(retrieval_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing) -> RetrievalResult:
    return evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing)


def test_scores_and_ranks_equal_the_naive_loop(result: RetrievalResult, naive: np.ndarray) -> None:
    assert naive.shape == (12, 11)
    assert np.ptp(naive) > 0.05  # the model distinguishes pairs
    assert np.abs(result.scores - naive).max() < 1e-5
    expected = metrics.rank_queries(naive, [[v] for v in result.owner])
    assert result.text_ranks.stable.tolist() == expected.stable.tolist()


@pytest.mark.parametrize("batch_pairs", [1, 5, 1000])
def test_batches_do_not_change_scores(
    batch_pairs: int,
    result: RetrievalResult,
    retrieval_model: Any,
    records: list[Record],
    tokenizer: Any,
    preprocessing: Preprocessing,
) -> None:
    again = evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing, batch_pairs=batch_pairs)
    assert np.abs(again.scores - result.scores).max() < 1e-6


@pytest.mark.parametrize("rerank", [None, 2])
@pytest.mark.parametrize("size", [2, 3])
def test_any_world_gives_the_same_on_every_rank(
    size: int,
    rerank: int | None,
    worlds: Callable,
    retrieval_model: Any,
    records: list[Record],
    tokenizer: Any,
    preprocessing: Preprocessing,
) -> None:
    alone = evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing, ranking=Ranking(rerank=rerank))
    found = worlds(
        size, lambda: evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing, ranking=Ranking(rerank=rerank))
    )
    for other in found:
        assert np.array_equal(other.scores, alone.scores, equal_nan=True)
        assert other.metrics() == alone.metrics()


def test_videos_can_have_several_captions_or_none(result: RetrievalResult) -> None:
    assert result.owner.count(3) == 3 and 5 not in result.owner
    assert result.described_videos == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert len(result.ranks[0]) == 12 and len(result.ranks[1]) == 10
    column = result.scores[:, 3]
    best = max(column[t] for t in range(12) if result.owner[t] == 3)
    assert result.video_ranks.stable[3] == 1 + (column > best).sum()


def test_reranking_all_equals_the_full_matrix(
    result: RetrievalResult, retrieval_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    again = evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing, ranking=Ranking(rerank=12))
    assert again.metrics() == result.metrics()
    assert np.abs(again.scores - result.scores).max() < 1e-6


def test_reranking_scores_only_the_best_by_vtc(
    result: RetrievalResult, retrieval_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    again = evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing, ranking=Ranking(rerank=2))
    assert 22 <= np.isfinite(again.scores).sum() <= 2 * 12 + 2 * 11
    for text in range(12):
        by_vtc = np.argsort(-result.similarities[text], kind="stable")
        best = sorted(by_vtc[:2], key=lambda v: -result.scores[text, v])
        expected = [result.video_ids[v] for v in [*best, *by_vtc[2:]]]
        assert [video for video, _ in again.best_videos(text, 11)] == expected
    assert [t for t, _ in again.best_texts(0, 2)] == [
        result.text_ids[t]
        for t in sorted(np.argsort(-result.similarities[:, 0], kind="stable")[:2], key=lambda t: -result.scores[t, 0])
    ]


def test_reranking_for_captions_only_scores_no_pairs_for_videos(
    result: RetrievalResult, retrieval_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    again = evaluate_retrieval(
        retrieval_model, records, tokenizer, preprocessing, ranking=Ranking(rerank=2, rerank_for="text2video")
    )
    assert np.isfinite(again.scores).sum(axis=1).tolist() == [2] * 12
    assert again.metrics()["text2video"] == result.reranked(2).metrics()["text2video"]
    assert again.metrics()["video2text"] == result.reranked(None).metrics()["video2text"]
    assert result.reranked(2, "text2video").metrics() == again.metrics()


def test_reranking_a_full_matrix_needs_no_second_evaluation(
    result: RetrievalResult, retrieval_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    again = evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing, ranking=Ranking(rerank=2))
    assert result.reranked(2).metrics() == again.metrics()
    by_vtc = metrics.rank_queries(result.similarities, [[v] for v in result.owner])
    assert result.reranked(None).text_ranks.stable.tolist() == by_vtc.stable.tolist()
    assert result.reranked(12).metrics() == result.metrics()


def test_rounding_gives_the_released_ranking(
    result: RetrievalResult, retrieval_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    again = evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing, ranking=Ranking(round_scores=1))
    assert again.metrics() == oracles.official_retrieval_metrics(result.scores, result.owner, 1)
    assert again.ties()["text2video"]["tied_queries"]["share"] > 0
    with pytest.raises(ConfigError, match="exclude"):
        evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing, ranking=Ranking(round_scores=4, rerank=2))


def test_blind_model_ignores_the_video(
    retrieval_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    blind = evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing, mode="blind")
    assert blind.scores.shape == (12, 11) and np.ptp(blind.scores, axis=1).max() == 0
    assert blind.ties()["text2video"]["mean"]["r1"] == pytest.approx(100 / 11)
    one = evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing, mode="one_frame")
    assert np.ptp(one.scores, axis=1).min() > 0


def test_one_frame_mode_repeats_the_middle_frame(records: list[Record]) -> None:
    (three,), (one,) = (ClipReader(*of).clips(records[:1]) for of in ((3, "uniform", 32), (4, "uniform", 32, "one_frame")))
    assert one.shape == (4, 3, 32, 32) and one.dtype == torch.uint8
    assert all(torch.equal(frame, three[1]) for frame in one)
    assert not torch.equal(three[0], three[2])


def test_evaluation_restores_the_models_mode_and_draws_no_random_numbers(
    retrieval_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    retrieval_model.train()
    retrieval_model.text_encoder.eval()
    state = torch.get_rng_state()
    evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing)
    assert retrieval_model.training and not retrieval_model.text_encoder.training
    assert torch.equal(state, torch.get_rng_state())
    retrieval_model.eval()


def test_each_video_is_read_once_and_progress_ends_at_its_total(
    monkeypatch: pytest.MonkeyPatch, retrieval_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    from alpro.data.batches import clip_frames

    read, steps = [], []
    original = clip_frames.read_frames
    monkeypatch.setattr(clip_frames, "read_frames", lambda path, *a, **k: (read.append(path), original(path, *a, **k))[1])
    evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing, progress=lambda *step: steps.append(step))
    assert sorted(read) == sorted(record.path for record in records)
    assert steps == [(n + 1, 6) for n in range(6)]


def test_unreadable_video_is_an_error_on_every_rank(
    worlds: Callable, retrieval_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing, tmp_path: Any
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    damaged = [*records[:8], replace(records[8], path=broken), *records[9:]]

    def attempt() -> str:
        with pytest.raises(DataError) as caught:
            evaluate_retrieval(retrieval_model, damaged, tokenizer, preprocessing)
        return str(caught.value)

    messages = worlds(2, attempt)
    assert all("broken.mp4" in message for message in messages)


def test_nan_weights_are_refused(records: list[Record], tokenizer: Any, preprocessing: Preprocessing) -> None:
    from alpro.models import build_model

    from .conftest import SIZES

    model = build_model("retrieval", num_frames=4, config=SIZES)
    with torch.no_grad():
        model.itm_head.bias.fill_(float("nan"))
    with pytest.raises(DataError, match="not finite"):
        evaluate_retrieval(model, records, tokenizer, preprocessing)


def test_no_captions_are_refused(
    retrieval_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    with pytest.raises(DataError, match="no captions"):
        evaluate_retrieval(retrieval_model, [replace(r, captions=()) for r in records], tokenizer, preprocessing)
