"""A killed evaluation resumes, and a second evaluation of the same checkpoint decodes nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alpro.data.annotations.records import Record
from alpro.data.batches import clip_frames
from alpro.errors import DataError
from alpro.evaluation.clips import Preprocessing
from alpro.evaluation.features import FeatureStore, VideoEncoder
from alpro.evaluation.qa import evaluate_qa
from alpro.evaluation.resume import FinishedUnits, ResumeState
from alpro.evaluation.retrieval import Ranking, evaluate_retrieval
from tests.evaluation.conftest import ANSWERS
from tests.training.processes import forked


class WorkCounter:
    """Counter of the work that an evaluation does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
        self.read = self.videos = self.texts = self.pairs = 0
        self.kill_at: tuple[str, int] | None = None
        read, encode, text, fuse = clip_frames.read_frames, model.encode_video, model.encode_text, model.fuse

        def count(what: str, number: int) -> None:
            setattr(self, what, getattr(self, what) + number)
            if self.kill_at is not None and self.kill_at[0] == what and getattr(self, what) >= self.kill_at[1]:
                os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(clip_frames, "read_frames", lambda *a, **k: (count("read", 1), read(*a, **k))[1])
        monkeypatch.setattr(model, "encode_video", lambda x: (count("videos", len(x)), encode(x))[1])
        monkeypatch.setattr(model, "encode_text", lambda x, m: (count("texts", len(x)), text(x, m))[1])
        monkeypatch.setattr(model, "fuse", lambda x, *a, **k: (count("pairs", len(x)), fuse(x, *a, **k))[1])

    def take(self) -> dict[str, int]:
        found = {"read": self.read, "videos": self.videos, "texts": self.texts, "pairs": self.pairs}
        self.read = self.videos = self.texts = self.pairs = 0
        return found


def killed(counted: WorkCounter, what: str, number: int, job: Callable[[], object]) -> None:
    """Run a job in a child that is killed (kill -9) after the given amount of work."""
    counted.kill_at = (what, number)
    with forked(job) as child:
        _, status = os.waitpid(child, 0)
    counted.kill_at = None
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize(
    ("what", "number", "missing"),
    [  # 11 videos in 3 units, 12 captions: a unit of scores is 48 pairs, the last one 36
        ("videos", 6, {"read": 6, "videos": 6, "texts": 0, "pairs": 132}),
        ("pairs", 60, {"read": 0, "videos": 0, "texts": 0, "pairs": 84}),
    ],
)
def test_killed_retrieval_evaluation_computes_only_the_missing_part(
    what: str, number: int, missing: dict[str, int], monkeypatch: pytest.MonkeyPatch, retrieval_model: Any,
    records: list[Record], tokenizer: Any, preprocessing: Preprocessing, tmp_path: Path,
) -> None:  # fmt: skip
    def run(resume: ResumeState | None) -> Any:
        return evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing, batch_pairs=12, resume=resume)

    expected = run(None)
    counted = WorkCounter(monkeypatch, retrieval_model)
    killed(counted, what, number, lambda: run(ResumeState(tmp_path / "state")))
    resume = ResumeState(tmp_path / "state")
    again = run(resume)
    assert counted.take() == missing
    assert np.array_equal(again.scores, expected.scores) and np.array_equal(again.similarities, expected.similarities)
    resume.done()
    assert not any((tmp_path / "state").iterdir())


def test_killed_qa_evaluation_computes_only_the_missing_part(
    monkeypatch: pytest.MonkeyPatch,
    qa_model: Any,
    records: list[Record],
    tokenizer: Any,
    preprocessing: Preprocessing,
    tmp_path: Path,
) -> None:
    def run(resume: ResumeState | None) -> Any:
        return evaluate_qa(qa_model, records, tokenizer, ANSWERS, preprocessing, resume=resume)

    expected = run(None)
    counted = WorkCounter(monkeypatch, qa_model)
    killed(counted, "videos", 5, lambda: run(ResumeState(tmp_path)))
    assert run(ResumeState(tmp_path)).predictions == expected.predictions
    asked = [len(record.questions) for record in records if record.questions]
    assert counted.take() == {
        "read": len(asked) - 4,
        "videos": len(asked) - 4,
        "texts": sum(asked[4:]),
        "pairs": sum(asked[4:]),
    }
    assert run(ResumeState(tmp_path)).predictions == expected.predictions
    assert set(counted.take().values()) == {0}


def test_state_of_another_evaluation_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
    qa_model: Any,
    records: list[Record],
    tokenizer: Any,
    preprocessing: Preprocessing,
    tmp_path: Path,
) -> None:
    counted = WorkCounter(monkeypatch, qa_model)
    evaluate_qa(qa_model, records, tokenizer, ANSWERS, preprocessing, resume=ResumeState(tmp_path))
    whole = counted.take()
    asked = [replace(r, questions=tuple(replace(q, text="who moves") for q in r.questions)) for r in records]
    changed = evaluate_qa(qa_model, asked, tokenizer, ANSWERS, preprocessing, resume=ResumeState(tmp_path))
    assert counted.take() == whole
    assert changed.predictions == evaluate_qa(qa_model, asked, tokenizer, ANSWERS, preprocessing).predictions
    counted.take()
    weight = qa_model.classifier[-1].bias
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.add_(1)
        evaluate_qa(qa_model, records, tokenizer, ANSWERS, preprocessing, resume=ResumeState(tmp_path))
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert counted.take() == whole


def test_second_evaluation_of_a_checkpoint_decodes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    retrieval_model: Any,
    records: list[Record],
    tokenizer: Any,
    preprocessing: Preprocessing,
    tmp_path: Path,
) -> None:
    def run(state: str, chosen: list[Record], **options: Any) -> Any:
        resume = ResumeState(tmp_path / state, tmp_path / "features")
        found = evaluate_retrieval(retrieval_model, chosen, tokenizer, preprocessing, **options, resume=resume)
        resume.done()
        return found

    counted = WorkCounter(monkeypatch, retrieval_model)
    first = run("a", records)
    assert (counted.read, counted.videos) == (11, 11)
    counted.take()
    second = run("b", records)
    assert np.array_equal(second.scores, first.scores)
    run("c", records[:6], ranking=Ranking(rerank=2))
    assert (counted.read, counted.videos) == (0, 0)
    run("d", records, mode="one_frame")  # other pixels give other features
    assert (counted.read, counted.videos) == (11, 11)


def test_replaced_video_is_encoded_again(
    monkeypatch: pytest.MonkeyPatch,
    retrieval_model: Any,
    records: list[Record],
    tokenizer: Any,
    preprocessing: Preprocessing,
    tmp_path: Path,
) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(records[0].path.read_bytes())
    moved = [replace(records[0], path=video), *records[1:4]]
    counted = WorkCounter(monkeypatch, retrieval_model)
    options = {"preprocessing": preprocessing, "resume": ResumeState(tmp_path / "state", tmp_path / "features")}
    evaluate_retrieval(retrieval_model, moved, tokenizer, **options)
    counted.take()
    video.write_bytes(records[9].path.read_bytes())
    evaluate_retrieval(retrieval_model, moved, tokenizer, **options)
    assert counted.take()["videos"] == 1


def test_features_that_exceed_memory_are_stored_on_disk(
    monkeypatch: pytest.MonkeyPatch, retrieval_model: Any, records: list[Record], tokenizer: Any, preprocessing: Preprocessing
) -> None:
    expected = evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing)
    kept: list[int] = []
    put = FeatureStore.put
    monkeypatch.setattr(FeatureStore, "put", lambda self, record, tokens: (kept.append(1), put(self, record, tokens))[1])
    monkeypatch.setattr(VideoEncoder, "fit_in_memory", lambda self: False)
    again = evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing)
    assert len(kept) == 11
    assert np.array_equal(again.scores, expected.scores)


def test_any_world_resumes_another_worlds_evaluation(
    worlds: Callable, monkeypatch: pytest.MonkeyPatch, retrieval_model: Any, records: list[Record], tokenizer: Any,
    preprocessing: Preprocessing, tmp_path: Path,
) -> None:  # fmt: skip
    def run() -> Any:
        return evaluate_retrieval(
            retrieval_model, records, tokenizer, preprocessing, batch_pairs=12, resume=ResumeState(tmp_path)
        )

    expected = evaluate_retrieval(retrieval_model, records, tokenizer, preprocessing, batch_pairs=12)
    with pytest.MonkeyPatch.context() as patch:
        killed(WorkCounter(patch, retrieval_model), "pairs", 60, run)
    for found in worlds(2, run):
        assert np.array_equal(found.scores, expected.scores)


def test_damaged_unit_is_recomputed_and_damaged_feature_reported(records: list[Record], tmp_path: Path) -> None:
    phase = FinishedUnits(tmp_path / "phase")
    phase.save(3, (np.arange(4), np.ones((2, 2), np.float32)))
    assert phase.numbers() == {3}
    first, second = phase.load(3) or ()
    assert first.tolist() == [0, 1, 2, 3] and second.dtype == np.float32
    (tmp_path / "phase/3.npz").write_bytes(b"cut")
    assert phase.load(3) is None and phase.load(4) is None
    store = FeatureStore(tmp_path / "features")
    assert not store.has(records[0])
    store.put(records[0], torch.ones(1, 3, 2))
    assert store.has(records[0]) and torch.equal(store.get(records[0]), torch.ones(1, 3, 2))
    store.path(records[0]).write_bytes(b"cut")
    with pytest.raises(DataError, match=r"\.npy: damaged"):
        store.get(records[0])
