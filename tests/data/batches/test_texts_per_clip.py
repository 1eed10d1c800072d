"""Several texts per clip: each text once per epoch, each clip read once, the same choice everywhere and after a resume."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alpro.data.batches.datasets as datasets_module
from alpro.config import RandAugment
from alpro.data.annotations.records import Question, Record
from alpro.data.batches.batch import Batch
from alpro.data.batches.clip_frames import View
from alpro.data.batches.datasets import ClipDataset, Collator, Unreadable
from alpro.data.batches.loader import TrainLoader
from alpro.data.batches.sampler import BatchPlan
from alpro.errors import ConfigError
from tests.data.clips import make_records, make_tokenizer

VIEW = View(num_frames=4, size=32, frames="random", randaugment=RandAugment())
ANSWERS = {"red": 0, "blue": 1}
COUNTS = (7, 1, 4, 5, 2, 8)  # questions of each clip


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    made = make_records(tmp_path_factory.mktemp("videos"), len(COUNTS), captions=3, questions=max(COUNTS))
    return [Record(r.id, r.path, captions=r.captions, questions=r.questions[:n]) for r, n in zip(made, COUNTS, strict=True)]


@pytest.fixture(scope="module")
def collator(tmp_path_factory: pytest.TempPathFactory) -> Collator:
    return Collator(make_tokenizer(tmp_path_factory.mktemp("text")), 30, seed=0)


def questions(records: list[Record], shared: int, **options: Any) -> ClipDataset:
    return ClipDataset("qa", records, "qa", VIEW, **{"seed": 5, "answers": ANSWERS, "texts_per_clip": shared, **options})


def plan_of(data: ClipDataset, batch: int, world: int = 1, epochs: int = 2, distinct: bool = True) -> BatchPlan:
    return BatchPlan(
        {"qa": len(data)}, batch, world, epochs=epochs, seed=5, groups={"qa": data.groups}, distinct_videos=distinct,
        texts_per_clip=data.texts_per_clip,
    )  # fmt: skip


def without_files(counts: tuple[int, ...]) -> list[Record]:
    """Return records with these numbers of questions whose files are never read."""
    asked = [tuple(Question(100 * i + q, "what is it", "red", "what") for q in range(n)) for i, n in enumerate(counts)]
    return [Record(f"video{i}", Path(f"{i}.avi"), questions=found) for i, found in enumerate(asked)]


def ids(data: ClipDataset, epoch: int) -> list[tuple[str, ...]]:
    """Return the ids of the texts of each row, without reading files."""
    chosen = [data._choose_texts(data.records[int(data._record[r])], int(data._part[r]), epoch) for r in range(len(data))]
    return [tuple(f"{data.records[int(data._record[r])].id}#{t.number}" for t in texts) for r, texts in enumerate(chosen)]


@pytest.mark.parametrize("shared", [2, 3, 4, 9])
def test_an_epoch_has_each_question_once_in_rows_of_nearly_equal_size(shared: int) -> None:
    data = questions(without_files(COUNTS), shared)
    rows = ids(data, epoch=3)
    assert sorted(sum(rows, ())) == sorted(f"{r.id}#{q.id}" for r in without_files(COUNTS) for q in r.questions)
    assert len(rows) == len(data) == sum(-(-n // shared) for n in COUNTS) and data.texts == sum(COUNTS)
    for number, count in enumerate(COUNTS):
        sizes = [len(row) for row in rows if row[0].startswith(f"video{number}#")]
        assert max(sizes) <= shared and max(sizes) - min(sizes) <= 1 and sum(sizes) == count


def test_questions_are_divided_by_seed_and_epoch_only() -> None:
    records = without_files(COUNTS)
    rows = ids(questions(records, 3), epoch=1)
    again = ids(questions(records[::-1], 3), epoch=1)  # other rows of another dataset object
    assert sorted(rows) == sorted(again)
    assert sorted(rows) != sorted(ids(questions(records, 3), epoch=2))
    assert sorted(rows) != sorted(ids(questions(records, 3, seed=6), epoch=1))


def test_one_question_per_clip_keeps_the_order_of_the_annotations() -> None:
    records = without_files(COUNTS)
    assert ids(questions(records, 1), epoch=1) == [(f"{r.id}#{q.id}",) for r in records for q in r.questions]


def test_questions_share_the_frames_that_the_first_would_have_alone(records: list[Record]) -> None:
    shared, alone = questions(records, 4), questions(records, 1)
    numbers = {alone[2, row].ids[0]: row for row in range(len(alone))}
    for row in range(len(shared)):
        sample = shared[2, row]
        first = alone[2, numbers[sample.ids[0]]]
        assert torch.equal(sample.frames, first.frames)
        assert (sample.texts[0], sample.labels[0]) == (first.texts[0], first.labels[0])
        assert sample.labels == tuple(alone[2, numbers[name]].labels[0] for name in sample.ids)


def test_captions_are_shared_too(records: list[Record], collator: Collator) -> None:
    data = ClipDataset("ret", records, "retrieval", VIEW, seed=0, texts_per_clip=2)
    batch = collator.batch([data[0, 0], data[0, 1], data[0, 2]])
    assert len(data) == 12 and len(batch) == len(batch.ids) == 5 and batch.labels is None
    assert batch.pixels.shape == (3, 4, 3, 32, 32) and batch.clips.tolist() == [0, 0, 1, 2, 2]
    assert {name.split("#")[0] for name in batch.ids[:3]} == {"ret/video0"}


def test_batch_of_single_texts_has_no_clip_numbers(records: list[Record], collator: Collator) -> None:
    assert collator.batch([questions(records, 1)[0, row] for row in range(3)]).clips is None


def read(data: ClipDataset, collator: Collator, plan: BatchPlan, **options: Any) -> dict[int, Batch]:
    return dict(TrainLoader({"qa": data}, plan, collator, **options))


def same(one: Batch, other: Batch) -> None:
    assert one.ids == other.ids
    for name in ("pixels", "input_ids", "attention_mask", "labels", "clips"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_each_clip_is_read_once_for_its_questions(
    records: list[Record], collator: Collator, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[str] = []
    real = datasets_module.load_video_frames
    monkeypatch.setattr(
        datasets_module, "load_video_frames", lambda record, *rest: files.append(record.id) or real(record, *rest)
    )
    data = questions(records, 4)
    batches = read(data, collator, plan_of(data, 8, epochs=1))
    assert len(files) == sum(len(batch.pixels) for batch in batches.values()) == 2 * len(batches)
    assert sum(map(len, batches.values())) > 1.5 * len(files)


def test_batches_do_not_depend_on_workers_or_resuming(records: list[Record], collator: Collator) -> None:
    data = questions(records, 2)
    plan = plan_of(data, 6)
    plain = read(data, collator, plan)
    assert len(plain) == plan.total_steps == 2 * (len(data) // 3)
    for options in ({"workers": 2}, {"workers": 1, "start_step": 3}, {"start_step": 5}):
        for step, batch in read(data, collator, plan, **options).items():
            same(batch, plain[step])


def test_processes_share_the_batch_of_a_single_process(records: list[Record], collator: Collator) -> None:
    data = questions(records, 2)
    whole = read(data, collator, plan_of(data, 8))
    halves = [read(data, collator, plan_of(data, 4, world=2), rank=rank) for rank in range(2)]
    for step, batch in whole.items():
        first, second = (half[step] for half in halves)
        assert batch.ids == first.ids + second.ids
        assert torch.equal(batch.pixels, torch.cat([first.pixels, second.pixels]))
        numbers = [torch.arange(len(b)) if b.clips is None else b.clips for b in (first, second)]
        assert torch.equal(batch.clips, torch.cat([numbers[0], numbers[1] + len(first.pixels)]))


def test_no_batch_has_a_clip_twice(records: list[Record]) -> None:
    data = questions(without_files((8,) * 12), 2)
    plan = plan_of(data, 8, world=2)
    for step in range(plan.total_steps):
        assert len(np.unique(data.groups[plan.at(step).indices])) == 8


def test_another_number_of_processes_continues_with_the_questions_that_are_left() -> None:
    data = questions(without_files((5,) * 20), 2)
    whole, seen = plan_of(data, 4, world=2, epochs=1), Counter[str]()
    rows = ids(data, epoch=0)
    resized = whole.resized(5, 3)
    for plan, steps in ((whole, range(5)), (resized, range(5, resized.total_steps))):
        for step in steps:
            assert len(plan.at(step).indices) == 2 * plan.world_size
            seen.update(name for row in plan.at(step).indices for name in rows[row])
    assert set(seen.values()) == {1} and len(seen) > 100 - 2 * 6


def test_unreadable_clip_counts_all_its_questions(
    records: list[Record], collator: Collator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Record("gone", tmp_path / "gone.mp4", questions=records[2].questions)
    data = questions([*records, gone], 4)
    plan = plan_of(data, 8, epochs=1)
    broken = data[0, len(data) - 1]
    assert isinstance(broken, Unreadable) and len(broken.ids) == 4
    loader = TrainLoader({"qa": data}, plan, collator, max_unreadable=0.01)
    read_texts = sum(len(batch) for _, batch in loader)
    assert sorted(loader.skipped) == sorted(broken.ids) and loader.counts == (4, read_texts + 4)
    assert all(name in caplog.text for name in broken.ids)


def test_message_about_an_unfillable_batch_counts_clips(records: list[Record]) -> None:
    with pytest.raises(
        ConfigError, match=r"qa: 9 clips with texts do not fill one batch of 2 processes x batch_size 20 \(5 clips"
    ):
        plan_of(questions(without_files((4,) * 9), 4), 20, world=2)
