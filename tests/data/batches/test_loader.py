"""Loading gives the same batches with any number of workers and from any step; unreadable samples are counted or refused."""

import os
import select
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from alpro.config import PEM
from alpro.data.annotations.records import Record
from alpro.data.batches.clip_frames import View
from alpro.data.batches.datasets import ClipDataset, Collator
from alpro.data.batches.loader import TrainLoader, validation_batches
from alpro.data.batches.ordered_clips import iter_clips
from alpro.data.batches.sampler import BatchPlan
from alpro.data.media.read import read_frames
from alpro.errors import DataError, TrainingError
from tests.data.clips import make_records, make_tokenizer

VIEW = View(num_frames=2, size=32, frames="random", decode_size=36)
TENSORS = ("pixels", "input_ids", "attention_mask", "mlm_input_ids", "mlm_labels", "crop_boxes")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("videos"), 10)


@pytest.fixture(scope="module")
def collator(tmp_path_factory):
    return Collator(make_tokenizer(tmp_path_factory.mktemp("text")), 30, seed=0, mlm_probability=0.3, crop=PEM(), patch_size=8)


def setup(records, batch=2, world=1, epochs=2):
    datasets = {name: ClipDataset(name, part, "corpus", VIEW, seed=5) for name, part in (("a", records), ("b", records[:5]))}
    lengths = {name: len(data) for name, data in datasets.items()}
    return datasets, BatchPlan(lengths, batch, world, epochs=epochs, seed=5, mix="size")


def same(first, second):
    assert first.ids == second.ids and first.corpus == second.corpus
    for name in TENSORS:
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_batches_do_not_depend_on_workers_or_resuming(records, collator):
    datasets, plan = setup(records)
    plain = dict(TrainLoader(datasets, plan, collator))
    assert list(plain) == list(range(plan.total_steps))
    for options in ({"workers": 2}, {"workers": 1, "start_step": 5, "stop_step": 9}, {"start_step": 7}):
        loader = TrainLoader(datasets, plan, collator, **options)
        steps = []
        for step, batch in loader:
            same(batch, plain[step])
            steps.append(step)
        assert steps == list(range(loader.start_step, loader.stop_step)) and len(loader) == len(steps)


def test_processes_share_the_batch_of_a_single_process(records, collator):
    datasets, plan = setup(records, batch=2)
    _, halved = setup(records, batch=1, world=2)
    ranks = [TrainLoader(datasets, halved, collator, rank=rank) for rank in range(2)]
    for (_, whole), (_, first), (_, second) in zip(TrainLoader(datasets, plan, collator), *ranks, strict=True):
        assert whole.ids == first.ids + second.ids
        assert torch.equal(whole.pixels, torch.cat([first.pixels, second.pixels]))
        assert torch.equal(whole.crop_boxes, torch.cat([first.crop_boxes, second.crop_boxes]))


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_does_not_change_the_models_random_state(records, collator, workers):
    datasets, plan = setup(records)
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(TrainLoader(datasets, plan, collator, workers=workers, stop_step=3))
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


def with_a_broken_one(records, tmp_path):
    (tmp_path / "broken.avi").write_bytes(records[0].path.read_bytes()[:900])
    return [*records[1:], Record("broken", tmp_path / "broken.avi", captions=("a red square",))]


def test_training_skips_counts_and_reports_unreadable_samples(records, collator, tmp_path, caplog):
    datasets, plan = setup(with_a_broken_one(records, tmp_path))
    loader = TrainLoader(datasets, plan, collator, max_unreadable=0.01)
    sizes = [len(batch) for _, batch in loader]
    assert sizes.count(1) == 2 and set(sizes) == {1, 2}  # once per epoch, one sample smaller
    assert loader.skipped == ["a/broken#0"] * 2 and loader.read == 2 * plan.total_steps
    assert "a/broken#0" in caplog.text and "broken.avi" in caplog.text
    resumed = TrainLoader(datasets, plan, collator)
    resumed.load_state_dict(loader.state_dict())
    assert (resumed.read, resumed.skipped) == (loader.read, loader.skipped)
    resumed.load_state_dict({"read": 7, "skipped": ["a/other#0"]})  # the state of a process that no longer exists
    assert (resumed.read, resumed.skipped) == (loader.read + 7, [*loader.skipped, "a/other#0"])


def test_training_stops_above_the_limit(records, collator, tmp_path):
    datasets, plan = setup(with_a_broken_one(records, tmp_path))
    with pytest.raises(TrainingError, match=r"1 of \d+ samples could not be read, more than loader.max_unreadable 0 .*broken"):
        list(TrainLoader(datasets, plan, collator, max_unreadable=0))


def test_limit_applies_to_the_samples_of_all_processes(records, collator):
    datasets, plan = setup(records, batch=1, world=2)
    loader = TrainLoader(datasets, plan, collator, max_unreadable=0.01)
    loader.load_state_dict({"read": 1500, "skipped": ["a/broken#0"] * 29})  # more than 1 % of 1,500, less than of 3,000
    assert len(list(loader)) == len(loader) and loader.counts == (29, 1500 + len(loader))
    loader.check_unreadable(30, 3000)
    with pytest.raises(
        TrainingError, match=r"31 of 3000 samples could not be read, .*max_unreadable 0\.01 allows; .*a/broken#0"
    ):
        loader.check_unreadable(31, 3000)
    loader = TrainLoader(datasets, plan, collator, max_unreadable=0.01)
    loader.load_state_dict({"read": 1500, "skipped": ["a/broken#0"] * 40})
    with pytest.raises(TrainingError, match="40 of 1501 samples"):  # too many of all samples, whatever the other process read
        next(iter(loader))


def test_empty_batch_stops_the_training(records, collator, tmp_path):
    datasets, plan = setup(with_a_broken_one(records, tmp_path), batch=1)
    with pytest.raises(TrainingError, match=r"no sample of the batch could be read: .*broken.avi"):
        list(TrainLoader(datasets, plan, collator, max_unreadable=1))


class _Dies(ClipDataset):
    def _load_frames(self, record, name, epoch):
        os.kill(os.getpid(), signal.SIGKILL)


def test_dead_worker_process_is_a_clear_error(records, collator):
    data = _Dies("a", records, "corpus", VIEW, seed=0)
    plan = BatchPlan({"a": len(data)}, 2, epochs=1, seed=0)
    with pytest.raises(TrainingError, match=r"step 0: a worker process died .*loader.workers.*/video\d"):
        next(iter(TrainLoader({"a": data}, plan, collator, workers=1)))


_ENDLESS = """
import os, signal
from alpro.data.batches.loader import _read_ahead

class View:
    clip_bytes = 100

class Data:
    view = View()
    def __getitem__(self, key):
        return key

batches = _read_ahead({"a": Data()}, ([("a", 0, 0)] for _ in iter(int, 1)), lambda keys: os.getpid(), 1, 2)
print(next(batches), flush=True)
signal.pause()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's signal at a parent's death")
def test_killed_training_leaves_no_worker_process():
    training = subprocess.Popen([sys.executable, "-c", _ENDLESS], stdout=subprocess.PIPE, text=True)
    assert training.stdout
    reader = os.pidfd_open(int(training.stdout.readline()))
    training.kill()
    training.wait()
    assert select.select([reader], [], [], 5)[0], (
        "the worker process is still running"
    )  # a readable pidfd means that the process has ended
    os.close(reader)


def test_validation_reads_each_sample_once_with_work_for_every_process(records, collator):
    data = ClipDataset("a", records, "retrieval", View(2, 32, "uniform", train=False), seed=0)
    for world, size in ((1, 3), (2, 3), (3, 1), (4, 6)):
        parts = [[b.ids for b in validation_batches(data, collator, size, rank=r, world_size=world)] for r in range(world)]
        assert len({len(part) for part in parts}) == 1 and all(ids for part in parts for ids in part)
        seen = [name for part in parts for ids in part for name in ids]
        assert len(seen) == len(set(seen)) == 20
    few = [name for batch in validation_batches(data, collator, 3, samples=5) for name in batch.ids]
    assert few == [data[0, row].ids[0] for row in (0, 4, 8, 12, 16)]


def test_validation_refuses_unreadable_samples(records, collator, tmp_path):
    data = ClipDataset("a", with_a_broken_one(records, tmp_path), "corpus", VIEW, seed=0)
    with pytest.raises(DataError, match=r"broken\.avi"):
        list(validation_batches(data, collator, 4))


@pytest.mark.parametrize("workers", [0, 3])
def test_evaluation_reads_every_clip_once_in_order(records, workers, monkeypatch):
    import alpro.data.batches.ordered_clips as clips_module

    read = []
    real = clips_module.load_video_frames
    monkeypatch.setattr(clips_module, "load_video_frames", lambda record, *rest: read.append(record.id) or real(record, *rest))
    clips = list(iter_clips(records, 4, "uniform", 32, workers))
    assert [position for position, _ in clips] == list(range(10))
    assert sorted(read) == sorted(record.id for record in records)
    for (_, clip), record in zip(clips, records, strict=True):
        np.testing.assert_array_equal(clip.permute(0, 2, 3, 1).numpy(), read_frames(record.path, 4, 32))


@pytest.mark.parametrize("workers", [0, 3])
def test_evaluation_reports_all_unreadable_videos_and_stops_at_the_first(records, tmp_path, workers):
    bad = [with_a_broken_one(records, tmp_path)[-1], Record("gone", tmp_path / "gone.mp4")]
    clips = iter_clips([records[0], bad[0], *records, bad[1]], 2, "uniform", 32, workers)
    assert next(clips)[0] == 0
    with pytest.raises(DataError, match=r"(?s)2 videos can't be read.*broken\.avi.*gone\.mp4: not found"):
        next(clips)
