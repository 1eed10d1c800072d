"""The frame cache: the same frames bit for bit, never old ones, and training without it if it cannot be used."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alpro.config import Loader, RandAugment
from alpro.data.annotations.records import Record
from alpro.data.batches import clip_frames, frame_cache
from alpro.data.batches.clip_frames import View
from alpro.data.batches.datasets import ClipDataset, Collator, Unreadable
from alpro.data.batches.frame_cache import FrameCache, open_frame_cache
from alpro.data.batches.loader import TrainLoader
from alpro.data.batches.ordered_clips import iter_clips
from alpro.data.batches.sampler import BatchPlan
from alpro.data.media.shards import write_shards
from alpro.errors import DataError
from tests.data.clips import make_records, make_tokenizer, make_video

LIMIT = 10**8
VIEWS = {
    "uniform": View(4, 32, "uniform"),
    "cropped": View(4, 32, "uniform", decode_size=40, randaugment=RandAugment()),
    "evaluation": View(4, 32, "uniform_floor", decode_size=40, train=False),
    "random of candidates": View(4, 32, "random", candidates=7),
    "headtail of candidates": View(4, 32, "headtail", candidates=7, decode_size=40, randaugment=RandAugment()),
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    made = make_records(folder)
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (50, 70, 3), dtype=np.uint8)).save(folder / "a.jpg")
    return [*made, Record("image", folder / "a.jpg", media="image", captions=("a red square",))]


@pytest.fixture
def cache(tmp_path):
    return FrameCache(tmp_path / "cache", LIMIT)


@pytest.fixture
def decoded(monkeypatch):
    """Paths of the files that are decoded, in order."""
    paths: list[str] = []

    def counted(read):
        return lambda path, *args, **options: (paths.append(Path(path).name), read(path, *args, **options))[1]

    monkeypatch.setattr(clip_frames, "read_frames", counted(clip_frames.read_frames))
    monkeypatch.setattr(clip_frames, "read_image", counted(clip_frames.read_image))
    return paths


def clips(records, view, cache=None, epochs=(0, 1)):
    data = ClipDataset("web", records, "corpus", view, seed=0, cache=cache)
    return [data[epoch, row].frames for epoch in epochs for row in range(len(data))]


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_cached_frames_equal_decoded_ones_and_are_decoded_once(records, cache, decoded, view):
    videos = [record for record in records if record.media == "video"]
    expected = clips(videos, view)
    decoded.clear()
    filled, again = clips(videos, view, cache), clips(videos, view, FrameCache(cache.folder, LIMIT))
    assert all(torch.equal(a, b) for a, b in zip(filled, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))
    assert decoded == [record.path.name for record in videos]


def test_frames_drawn_from_the_whole_clip_are_not_cached(records, cache, decoded):
    view = View(4, 32, "random")
    expected = clips(records[:2], view)
    decoded.clear()
    assert all(torch.equal(a, b) for a, b in zip(clips(records[:2], view, cache), expected, strict=True))
    assert len(decoded) == 4


def test_candidates_are_all_frames_of_a_short_clip_and_change_what_is_drawn_from_a_long_one(records):
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            clips(records[:2], View(4, 32, "random")), clips(records[:2], View(4, 32, "random", candidates=12)), strict=True
        )
    )  # they have 12 frames
    few = clips(records[:1], View(4, 32, "random", candidates=5), epochs=range(20))
    positions = {frame.numpy().tobytes() for clip in few for frame in clip}
    assert len(positions) == 5


def test_images_are_cached_unless_they_are_augmented(records, cache, decoded):
    image = records[-1:]
    expected = clips(image, View(4, 32, "uniform", augment_images=False))
    decoded.clear()
    for frames in clips(image, View(4, 32, "uniform", augment_images=False), cache):
        assert torch.equal(frames, expected[0])
    assert decoded == ["a.jpg"]
    clips(image, View(4, 32, "uniform"), cache)
    assert decoded == ["a.jpg"] * 3


def test_training_and_evaluation_share_clips_also_through_loader_processes(records, cache, decoded, tmp_path):
    data = ClipDataset("web", records[:6], "corpus", VIEWS["uniform"], seed=0, cache=cache)
    plan = BatchPlan({"web": 6}, 2, epochs=3, seed=0)
    collator = Collator(make_tokenizer(tmp_path / "text"), 30, seed=0)
    batches = [batch for _, batch in TrainLoader({"web": data}, plan, collator, workers=2)]
    assert len(batches) == 9 and not decoded  # the processes decoded
    read = dict(iter_clips(records[:6], 4, "uniform", 32, workers=1, cache=cache))
    assert not decoded
    batches += [batch for _, batch in TrainLoader({"web": data}, plan, collator, workers=2)]  # forks after a read
    frames = dict(iter_clips(records[:6], 4, "uniform", 32))
    assert all(torch.equal(read[i], frames[i]) for i in range(6))
    for batch in batches:
        for name, pixels in zip(batch.ids, batch.pixels, strict=True):
            assert torch.equal(pixels, frames[int(name.split("#")[0].removeprefix("web/video"))])


@pytest.mark.parametrize("settled", [True, False], ids=["remembered hash", "hash not yet remembered"])
def test_a_changed_file_of_the_same_name_is_not_served_stale(tmp_path, cache, monkeypatch, settled):
    monkeypatch.setattr(frame_cache, "_SETTLED_NS", -1 if settled else 10**15)
    path = make_video(tmp_path / "a.avi", frames=12, hue=10)
    record = [Record("a", path, captions=("a",))]
    first = clips(record, VIEWS["uniform"], cache)[0]
    other = make_video(tmp_path / "b.avi", frames=12, hue=200)
    shutil.copyfile(other, path)
    assert torch.equal(clips(record, VIEWS["uniform"], cache)[0], clips(record, VIEWS["uniform"])[0])
    assert not torch.equal(clips(record, VIEWS["uniform"], cache)[0], first)


def test_a_file_changed_while_it_is_decoded_is_not_stored(tmp_path, cache):
    path = make_video(tmp_path / "a.avi", frames=12, hue=10)
    other = make_video(tmp_path / "b.avi", frames=12, hue=200)

    def decode():
        shutil.copyfile(other, path)
        return np.zeros((4, 3, 8, 8), np.uint8)

    cache.read(path, "all", decode)
    assert cache.read(path, "all", lambda: np.ones((4, 3, 8, 8), np.uint8)).all()
    assert cache.read(path, "all", lambda: np.zeros((4, 3, 8, 8), np.uint8)).all()


def test_a_renamed_or_copied_file_is_found_by_its_content(records, cache, decoded, tmp_path):
    clips(records[:1], VIEWS["uniform"], cache)
    copy = shutil.copyfile(records[0].path, tmp_path / "copy.avi")
    clips([Record("copy", Path(copy), captions=("a",))], VIEWS["uniform"], cache)
    assert decoded == [records[0].path.name]


def test_the_hash_of_an_unchanged_file_is_computed_once(records, cache, monkeypatch):
    monkeypatch.setattr(frame_cache, "_SETTLED_NS", -1)
    clips(records[:2], VIEWS["uniform"], cache)
    monkeypatch.setattr(frame_cache, "sha256", lambda path: pytest.fail(f"{path} is read again"))
    clips(records[:2], VIEWS["uniform"], cache)


def test_another_decoder_or_size_is_another_entry(records, cache, decoded, monkeypatch):
    clips(records[:1], VIEWS["uniform"], cache)
    clips(records[:1], View(4, 40, "uniform"), cache)
    clips(records[:1], View(2, 32, "uniform"), cache)
    assert len(decoded) == 3
    frame_cache.decoding_version.cache_clear()
    monkeypatch.setattr(frame_cache, "version", lambda library: "0")
    clips(records[:1], VIEWS["uniform"], cache)
    frame_cache.decoding_version.cache_clear()
    assert len(decoded) == 4


def test_clips_in_shards_are_cached(records, cache, decoded, tmp_path):
    (tmp_path / "loose").mkdir()
    shutil.copyfile(records[0].path, tmp_path / "loose/a.avi")
    write_shards(tmp_path / "loose", tmp_path / "shards")
    record = [Record("a", tmp_path / "shards/shard-00000.tar/a.avi", captions=("a",))]
    frames = clips(record, VIEWS["uniform"], cache)
    assert decoded == ["a.avi"] and torch.equal(frames[0], clips(records[:1], VIEWS["uniform"])[0])


def test_an_unreadable_file_is_reported_as_without_a_cache(records, cache, tmp_path):
    (tmp_path / "broken.avi").write_bytes(b"RIFF" + bytes(100))
    broken = [Record(name, tmp_path / f"{name}.avi", captions=("a",)) for name in ("gone", "broken")]
    for view in (VIEWS["uniform"], VIEWS["random of candidates"]):
        without, with_cache = (ClipDataset("web", broken, "corpus", view, 0, cache=c) for c in (None, cache))
        for row in (0, 1):
            assert isinstance(with_cache[0, row], Unreadable) and with_cache[0, row] == without[0, row]
    assert cache.usable
    with pytest.raises(DataError, match=r"2 videos can't be read"):
        list(iter_clips(broken, 4, "uniform", 32, cache=cache))


def test_a_full_cache_adds_nothing_and_says_so_once(records, tmp_path, decoded, caplog, monkeypatch):
    monkeypatch.setattr(frame_cache, "_SETTLED_NS", -1)  # the hash of a file just written would not be remembered
    cache = FrameCache(tmp_path / "cache", 2 * 4 * 3 * 32 * 32)
    expected = clips(records[:5], VIEWS["uniform"])
    decoded.clear()
    with caplog.at_level(logging.WARNING):
        assert all(torch.equal(a, b) for a, b in zip(clips(records[:5], VIEWS["uniform"], cache), expected, strict=True))
    assert len(decoded) == 5 + 3
    assert len(caplog.messages) == 1 and "has reached loader.cache_gb" in caplog.messages[0]


def test_training_goes_on_without_a_cache_that_cannot_be_used_and_says_so_once(records, tmp_path, decoded, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert open_frame_cache(Loader(cache=str(tmp_path / "file/cache"))) is None
    assert len(caplog.messages) == 1 and "file/cache: can't be used (" in caplog.messages[0]
    caplog.clear()

    cache = FrameCache(tmp_path / "cache", LIMIT)
    clips(records[:2], VIEWS["uniform"], cache)
    cache.close()
    (tmp_path / "cache/index.sqlite").write_bytes(b"not a database" * 1000)
    expected = clips(records[:2], VIEWS["uniform"])
    with caplog.at_level(logging.WARNING):
        again = [*clips(records[:2], VIEWS["uniform"], cache), *clips(records[:2], VIEWS["uniform"], cache)]
    assert all(torch.equal(a, b) for a, b in zip(again, expected * 2, strict=True))
    assert len(caplog.messages) == 1 and "can't be used (file is not a database)" in caplog.messages[0]


def test_a_network_file_system_is_not_used(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(frame_cache, "network_filesystem", lambda folder: "nfs4")
    with caplog.at_level(logging.WARNING):
        assert open_frame_cache(Loader(cache=str(tmp_path / "cache"))) is None
    assert "set loader.cache to a folder on a local disk" in caplog.text


def test_a_cache_in_the_state_folder_moves_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPRO_STATE", str(tmp_path / "elsewhere"))
    cache = open_frame_cache(Loader(cache=".state/frames"))
    assert cache is not None and cache.folder == tmp_path / "elsewhere/frames" and not (tmp_path / ".state").exists()
    monkeypatch.delenv("ALPRO_STATE")
    assert open_frame_cache(Loader(cache=".state/frames")).folder == tmp_path / ".state/frames"


def test_no_cache_is_made_without_the_parameter():
    assert open_frame_cache(Loader()) is None
