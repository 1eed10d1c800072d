"""The batch plan depends only on the step, is the same for any number of processes, and repeats no video in a batch."""

import time

import numpy as np
import pytest

from alpro.data.batches.sampler import BatchPlan
from alpro.errors import ConfigError


def plan(lengths=None, batch=4, world=1, **options):
    return BatchPlan(lengths or {"a": 22}, batch, world, **{"epochs": 3, "seed": 1, **options})


def test_processes_share_the_batch_of_a_single_process():
    lengths = {"a": 50, "b": 33}
    one, four = plan(lengths, 8), plan(lengths, 2, 4)
    assert one.total_steps == four.total_steps
    for step in range(one.total_steps):
        draws = [four.local(step, rank) for rank in range(4)]
        assert {(d.corpus, d.epoch) for d in draws} == {(one.at(step).corpus, one.at(step).epoch)}
        np.testing.assert_array_equal(np.concatenate([d.indices for d in draws]), one.at(step).indices)


def test_steps_do_not_depend_on_earlier_queries():
    options = {"lengths": {"a": 50, "b": 33}, "groups": {"a": np.arange(50) // 3}, "distinct_videos": True}
    forward = [plan(**options).at(step) for step in range(plan(**options).total_steps)]
    backward = plan(**options)
    for step in reversed(range(backward.total_steps)):
        draw = backward.at(step)
        assert (draw.corpus, draw.epoch) == (forward[step].corpus, forward[step].epoch)
        np.testing.assert_array_equal(draw.indices, forward[step].indices)


def test_epoch_repeats_no_sample_and_skips_less_than_a_batch():
    p = plan()
    assert p.steps_per_epoch == 5
    orders = [np.concatenate([p.at(step).indices for step in range(e * 5, e * 5 + 5)]) for e in range(3)]
    for order in orders:
        assert len(np.unique(order)) == 20
    assert not np.array_equal(orders[0], orders[1])


def test_released_order_is_the_same_in_every_epoch():
    p = plan(reshuffle=False)
    np.testing.assert_array_equal(p.at(2).indices, p.at(7).indices)
    assert (p.at(2).epoch, p.at(7).epoch) == (0, 1)  # the draws for the samples still change


def test_mixing_by_size_reads_every_corpus_once_per_epoch():
    p = plan({"a": 40, "b": 9, "c": 20}, mix="size")
    for epoch in range(3):
        draws = [p.at(step) for step in range(epoch * p.steps_per_epoch, (epoch + 1) * p.steps_per_epoch)]
        assert {name: sum(d.corpus == name for d in draws) for name in "abc"} == {"a": 10, "b": 2, "c": 5}
        assert {d.epoch for d in draws} == {epoch}
    assert [p.at(i).corpus for i in range(17)] != sorted(p.at(i).corpus for i in range(17))


def test_mixing_with_equal_odds_repeats_the_small_corpus():
    p = plan({"large": 4000, "small": 40}, epochs=2)
    draws = [p.at(step) for step in range(p.total_steps)]
    small = [d for d in draws if d.corpus == "small"]
    assert p.steps_per_epoch == 1010 and len(small) / len(draws) == pytest.approx(0.5, abs=0.03)
    assert small[-1].epoch == (len(small) - 1) // 10 > 50
    seen = np.concatenate([d.indices for d in small if d.epoch == 7])
    assert sorted(seen) == list(range(40))


@pytest.mark.parametrize(
    ("videos", "captions", "batch"), [(100, 20, 16), (17, 9, 16), (16, 30, 16), (40, 1, 16), (1000, 20, 128)]
)
def test_no_batch_repeats_a_video(videos, captions, batch):
    groups = np.repeat(np.arange(videos), captions)
    p = BatchPlan({"a": len(groups)}, batch, groups={"a": groups}, distinct_videos=True, epochs=2, seed=0)
    for epoch in range(2):
        steps = range(epoch * p.steps_per_epoch, (epoch + 1) * p.steps_per_epoch)
        order = np.concatenate([p.at(step).indices for step in steps])
        assert len(np.unique(order)) == len(order)
        assert all(len(np.unique(groups[p.at(step).indices])) == batch for step in steps)


def test_no_batch_repeats_a_video_with_uneven_numbers_of_captions():
    groups = np.repeat(np.arange(60), np.r_[np.full(3, 14), np.full(57, 3)])
    p = BatchPlan({"a": len(groups)}, 14, groups={"a": groups}, distinct_videos=True, epochs=5, seed=3)
    for step in range(p.total_steps):
        assert len(np.unique(groups[p.at(step).indices])) == 14


def test_batches_can_repeat_a_video_without_distinct_videos():
    groups = np.repeat(np.arange(10), 10)
    p = BatchPlan({"a": 100}, 8, groups={"a": groups}, epochs=1, seed=0)
    assert any(len(np.unique(groups[p.at(step).indices])) < 8 for step in range(p.total_steps))


def test_impossible_plan_is_refused_at_the_start():
    with pytest.raises(ConfigError, match="a: 22 samples do not fill one batch of 4 processes x batch_size 8"):
        plan(batch=8, world=4)
    with pytest.raises(ConfigError, match=r"a: 3 videos can't fill 5 batches .*distinct_videos"):
        plan(groups={"a": np.arange(22) % 3}, distinct_videos=True)
    with pytest.raises(IndexError):
        plan().at(15)


@pytest.mark.parametrize("mix", ["size", "equal"])
@pytest.mark.parametrize("changes", [[(7, 3)], [(3, 1), (4, 4), (9, 2)], [(12, 3), (12, 2)], [(10, 3)]])
def test_resized_world_continues_with_the_rest_of_the_epoch(mix, changes):
    lengths, groups = {"a": 50, "b": 33}, {"a": np.arange(50) // 2}
    whole = p = plan(lengths, 4, 2, mix=mix, groups=groups, distinct_videos=True)
    draws, start = [], 0
    for at, world in [*changes, (None, None)]:
        end = p.total_steps if at is None else at
        for step in range(start, end):
            draw = p.at(step)
            assert len(draw.indices) == 4 * p.world_size
            if draw.corpus == "a":
                assert len(np.unique(groups["a"][draw.indices])) == len(draw.indices)
            draws.append((p.epoch_of(step), draw))
            np.testing.assert_array_equal(np.concatenate([p.local(step, r).indices for r in range(p.world_size)]), draw.indices)
        start = end
        p = p.resized(at, world) if at is not None else p
    epochs = [epoch for epoch, _ in draws]
    assert epochs == sorted(epochs) and set(epochs) == {0, 1, 2}
    seen: dict = {}
    for _, draw in draws:
        seen.setdefault((draw.corpus, draw.epoch), []).extend(draw.indices.tolist())
    assert all(len(rows) == len(set(rows)) for rows in seen.values())  # no repeats
    if mix == "size":
        assert all(
            len(seen["a", e]) >= 50 - 16 * (1 + len(changes)) and {d.epoch for t, d in draws if t == e} == {e} for e in range(3)
        )
    assert sum(len(draw.indices) for _, draw in draws) == pytest.approx(whole.total_steps * 8, abs=16 * 2 * (1 + len(changes)))


def test_resizing_between_epochs_equals_a_fresh_plan():
    p = plan({"a": 40, "b": 24}, 4, 2, mix="size")
    other, fresh = p.resized(p.steps_per_epoch, 1), plan({"a": 40, "b": 24}, 4, 1, mix="size")
    for step in range(fresh.steps_per_epoch):
        ours, theirs = other.at(p.steps_per_epoch + step), fresh.at(fresh.steps_per_epoch + step)
        assert (ours.corpus, ours.epoch) == (theirs.corpus, theirs.epoch)
        np.testing.assert_array_equal(ours.indices, theirs.indices)


def test_five_million_samples_are_planned_in_seconds():
    start = time.process_time()
    p = BatchPlan({"webvid": 2_500_000, "cc3m": 3_000_000}, 16, 16, epochs=10, seed=0)
    for step in (0, 1, 12345, 200_000):
        p.local(step, 7)
    first = time.process_time() - start
    start = time.process_time()
    for step in range(200_000, 200_200):
        p.local(step, 7)
    assert first < 30 and time.process_time() - start < 2
