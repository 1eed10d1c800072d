"""Batched requests get the answers of single ones; a full queue, a late or a broken request is refused alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from alpro import serving
from alpro.search.query import Query
from alpro.served import engine as engine_module
from alpro.served.engine import Engine
from alpro.served.limits import RequestError
from alpro.served.stack import Served
from tests.serving.conftest import TEXTS

from .conftest import CLIPS

WAIT_S = 30


@pytest.fixture
def engine(stack: Served) -> Iterator[Engine]:
    engine = Engine(stack.models, queue=40)
    yield engine
    engine.close()


class Held:
    """Holds the model's thread of an engine back, so that requests wait."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self._go, self._began = threading.Event(), threading.Event()
        compute = engine._compute

        def held(jobs):
            self.sizes.append(len(jobs))
            self._began.set()
            assert self._go.wait(WAIT_S)
            return compute(jobs)

        monkeypatch.setattr(engine, "_compute", held)

    def until_busy(self) -> None:
        assert self._began.wait(WAIT_S)

    def release(self) -> None:
        self._go.set()


def test_batched_answers_equal_single_ones(
    engine: Engine, stack: Served, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(engine, monkeypatch)
    asked = [(name, text) for name in CLIPS for text in TEXTS]
    engine.ask(stack.videos.video(CLIPS[0]), TEXTS[0], WAIT_S)
    held.until_busy()
    futures = [engine.ask(stack.videos.video(name), text, WAIT_S) for name, text in asked]
    wait_until_read(engine, len(asked))
    held.release()
    model = serving.load(project / "models/tiny/finetune/questions")
    for (name, text), future in zip(asked, futures, strict=True):
        expected = serving.ask(model, stack.videos.video(name), text)
        answers = future.result(WAIT_S).value
        assert [answer.answer for answer in answers] == [answer.answer for answer in expected]
        assert [answer.probability for answer in answers] == pytest.approx([a.probability for a in expected], abs=1e-5)
    assert held.sizes == [1, len(asked)]  # the first one was answered alone, all others together


def wait_until_read(engine: Engine, count: int) -> None:
    """Wait until this many requests wait for the model's thread."""
    with engine._changed:
        assert engine._changed.wait_for(lambda: len(engine._waiting) >= count, WAIT_S)


def test_batched_matches_equal_single_ones(engine: Engine, stack: Served, project: Path) -> None:
    futures = [engine.match(stack.videos.video(name), TEXTS, WAIT_S) for name in CLIPS]
    model = serving.load(project / "models/tiny/finetune/clips")
    for name, future in zip(CLIPS, futures, strict=True):
        for found, expected in zip(
            future.result(WAIT_S).value, serving.match(model, stack.videos.video(name), TEXTS), strict=True
        ):
            assert found.text == expected.text
            assert found.probability == pytest.approx(expected.probability, abs=1e-5)
            assert found.similarity == pytest.approx(expected.similarity, abs=1e-5)


def test_searches_in_a_batch_equal_single_ones(engine: Engine, stack: Served) -> None:
    collection = stack.collections.get(stack.videos.path)
    futures = [
        engine.search(collection, Query(text, count, rerank), WAIT_S)
        for text, count, rerank in zip(TEXTS, (1, 2, 3, 4), (0, 1, 2, 128), strict=True)
    ]
    for text, count, rerank, future in zip(TEXTS, (1, 2, 3, 4), (0, 1, 2, 128), futures, strict=True):
        found, expected = future.result(WAIT_S).value, collection.searcher.search(text, count, rerank)
        assert [hit.video for hit in found] == [hit.video for hit in expected]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_full_queue_is_refused_and_empties_again(engine: Engine, stack: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    held, clip = Held(engine, monkeypatch), stack.videos.video(CLIPS[0])
    futures = [engine.ask(clip, TEXTS[0], WAIT_S) for _ in range(40)]
    with pytest.raises(RequestError, match="40 requests are waiting") as refused:
        engine.ask(clip, TEXTS[0], WAIT_S)
    assert refused.value.status == 429
    held.release()
    assert all(future.result(WAIT_S) for future in futures) and engine.pending == 0
    assert engine.ask(clip, TEXTS[0], WAIT_S).result(WAIT_S)


def test_late_request_is_not_computed(engine: Engine, stack: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    held, clip = Held(engine, monkeypatch), stack.videos.video(CLIPS[0])
    first = engine.ask(clip, TEXTS[0], WAIT_S)
    held.until_busy()
    late, cancelled = engine.ask(clip, TEXTS[0], timeout_s=-1), engine.ask(clip, TEXTS[0], WAIT_S)
    assert cancelled.cancel()
    held.release()
    with pytest.raises(RequestError) as refused:
        late.result(WAIT_S)
    assert refused.value.status == 504 and first.result(WAIT_S) and held.sizes == [1] and engine.pending == 0


def test_frames_of_refused_requests_are_not_kept(engine: Engine, stack: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    held, clips = Held(engine, monkeypatch), stack.models.version("ask").clips
    first = engine.ask(stack.videos.video(CLIPS[0]), TEXTS[0], WAIT_S)
    held.until_busy()
    clips.forget(engine_module.clip_key(stack.videos.video(CLIPS[1])))
    late = engine.ask(stack.videos.video(CLIPS[1]), TEXTS[0], timeout_s=-1)
    broken = engine.ask(stack.videos.path / "broken.mp4", TEXTS[0], WAIT_S)
    held.release()
    for refused in (late, broken):
        with pytest.raises(RequestError):
            refused.result(WAIT_S)
    assert first.result(WAIT_S) and not clips._reading


def test_unreadable_clip_fails_alone(engine: Engine, stack: Served) -> None:
    broken = engine.ask(stack.videos.path / "broken.mp4", TEXTS[0], WAIT_S)
    good = engine.ask(stack.videos.video(CLIPS[1]), TEXTS[0], WAIT_S)
    with pytest.raises(RequestError, match=r"^broken\.mp4 can't be read") as refused:
        broken.result(WAIT_S)
    assert refused.value.status == 415 and good.result(WAIT_S) and engine.pending == 0
    with pytest.raises(RequestError) as missing:
        engine.ask(stack.videos.path / "gone.mp4", TEXTS[0], WAIT_S)
    assert missing.value.status == 404


def test_failure_of_the_model_reaches_every_caller(engine: Engine, stack: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args):
        raise RuntimeError("out of memory")

    clip = stack.videos.video(CLIPS[0])
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "answer_pairs", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.ask(clip, TEXTS[0], WAIT_S).result(WAIT_S)
    assert engine.ask(clip, TEXTS[0], WAIT_S).result(WAIT_S)  # the thread lives on


def test_clip_is_read_and_encoded_once(stack: Served, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    version, clip = stack.models.version("ask"), stack.videos.video(CLIPS[2])
    version.clips.forget(engine_module.clip_key(clip))
    reads = []
    read = engine_module.read_frames
    monkeypatch.setattr(engine_module, "read_frames", lambda *args: (reads.append(args), read(*args))[1])
    for future in [engine.ask(clip, text, WAIT_S) for text in TEXTS * 3]:
        future.result(WAIT_S)
    assert len(reads) == 1


def test_waiting_requests_are_refused_at_the_end(stack: Served) -> None:
    engine = Engine(stack.models)
    engine.close()
    with pytest.raises(RequestError, match="being stopped") as refused:
        engine.ask(stack.videos.video(CLIPS[0]), TEXTS[0], WAIT_S)
    assert refused.value.status == 503
