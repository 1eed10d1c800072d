"""Sizes follow the data and the machine: time, memory, number of videos, and the checkpoint that a training starts from."""

from __future__ import annotations

from typing import Any

import pytest

from alpro.config import Model
from alpro.own_data.machine import Machine, this_machine
from alpro.own_data.sizes import PRESETS, Sizes, Split, choose_sizes, text_tokens

GB = 1e9
LAPTOP = Machine(cores=2, memory=8 * GB, gpus=0, flops=50e9)
SERVER = Machine(cores=32, memory=80 * GB, gpus=8, flops=8e14)


def choose(task: str = "retrieval", train: Split = Split(200, 400), machine: Machine = LAPTOP, **changes: Any) -> Sizes:  # noqa: B008
    """Choose sizes for a set of 200 clips of 3 s."""
    settings: dict[str, Any] = {"tokens": 20, "vocab_size": 500, "seconds": 3, "answers": 30, "minutes": 10}
    return choose_sizes(task, train, Split(20, 40), machine=machine, **(settings | changes))


def test_faster_machine_gets_the_larger_model() -> None:
    small, large = choose(), choose(machine=SERVER)
    assert (small.model.width, large.model.width) == (PRESETS[0][0].width, PRESETS[1][0].width)
    assert (small.training.precision, large.training.precision) == ("fp32", "bf16")
    assert small.model.vocab_size == 500


def test_small_set_is_not_divided_over_many_gpus() -> None:
    counts = [choose(train=Split(videos, 2 * videos), machine=SERVER).processes for videos in (200, 500, 10**5)]
    assert counts == [1, 3, 8] and choose().processes == 1


def test_estimate_stays_within_the_minutes_unless_one_epoch_takes_longer() -> None:
    times = {minutes: choose(minutes=minutes) for minutes in (1, 5, 20)}
    assert all(sizes.minutes <= minutes for minutes, sizes in times.items())
    assert times[1].training.epochs < times[5].training.epochs <= times[20].training.epochs
    assert choose(train=Split(10**5, 10**6)).training.epochs == 1


def test_small_memory_halves_the_batch_and_accumulates() -> None:
    base = Model(vocab_size=500)
    plenty = choose(checkpoint=base, num_frames=8, machine=Machine(2, 256 * GB, 0, 50e9))
    scarce = choose(checkpoint=base, num_frames=8, machine=Machine(2, plenty.memory / 0.6 * 0.7, 0, 50e9))
    assert scarce.training.batch_size < plenty.training.batch_size == 16
    assert scarce.training.batch_size * scarce.training.accumulation == 16
    assert scarce.memory <= 0.6 * (plenty.memory / 0.6 * 0.7)


def test_validations_take_a_fifth_of_the_time_at_most() -> None:
    assert choose(minutes=20).training.validations == 4
    few = choose_sizes(
        "retrieval",
        Split(200, 400),
        Split(500, 1000),
        tokens=20,
        vocab_size=500,
        seconds=3,
        answers=0,
        machine=LAPTOP,
        minutes=20,
    )
    assert few.training.validations == 1


@pytest.mark.parametrize(("videos", "batch"), [(2, 2), (3, 2), (9, 8), (500, 16)])
def test_batch_of_distinct_videos_fits_the_training_split(videos: int, batch: int) -> None:
    assert choose(train=Split(videos, 2 * videos)).training.batch_size == batch


@pytest.mark.parametrize(("texts", "shared"), [(200, 1), (400, 2), (700, 2), (900, 4)])
def test_questions_of_a_clip_share_its_frames(texts: int, shared: int) -> None:
    sizes = choose("qa", train=Split(200, texts))
    assert sizes.training.questions_per_clip == shared and sizes.training.batch_size % shared == 0
    assert sizes.training.select_by == "overall_acc"


def test_checkpoint_keeps_its_sizes_and_gets_a_small_learning_rate() -> None:
    base = Model(image_size=64, width=128, heads=2, vocab_size=500)
    sizes = choose(checkpoint=base, num_frames=6)
    assert sizes.model == base and sizes.training.num_frames == 6
    assert sizes.training.learning_rate < choose().training.learning_rate / 10


def test_longer_videos_and_texts_get_more_frames_and_tokens() -> None:
    assert choose(seconds=3).training.num_frames * 2 == choose(seconds=30).training.num_frames
    assert text_tokens([5] * 100, 512) == 20
    assert text_tokens([5] * 98 + [37, 400], 512) == 40  # one text in a hundred is cut
    assert text_tokens([5] * 50 + [300] * 50, 64) == 64
    assert choose(tokens=90).model.max_positions == 90


def test_this_machine_has_memory_and_a_measured_speed() -> None:
    machine = this_machine()
    assert machine.cores >= 1 and machine.memory > 1e8 and 1e8 < machine.flops < 1e16
