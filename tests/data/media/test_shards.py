"""Clips in shards are read like single files, and the same clips give byte-identical shards."""

import hashlib
import multiprocessing
import os
import random
import subprocess

import numpy as np
import pytest

from alpro.config import Corpus
from alpro.data.annotations.media_files import MediaFolder
from alpro.data.annotations.read import missing_files, read_corpus
from alpro.data.batches.clip_frames import View
from alpro.data.batches.datasets import ClipDataset
from alpro.data.media.index import build_index
from alpro.data.media.probe import probe
from alpro.data.media.read import read_frames, read_image
from alpro.data.media.shards import list_clips, locate_clip, write_shards
from alpro.errors import DataError
from alpro.files.outputs import MANIFEST, OwnFiles
from tests.data.clips import make_video


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Seven clips of three kinds in two pages, as single files and in shards of three."""
    root = tmp_path_factory.mktemp("shards")
    loose = root / "loose"
    for page in ("page1", "page2"):
        (loose / page).mkdir(parents=True)
    for i in range(7):
        make_video(loose / f"page{1 + i % 2}" / f"clip{i}.{('avi', 'mp4', 'mov')[i % 3]}", frames=20 + i, hue=30 * i)
    assert write_shards(loose, root / "shards", clips=3) == 3
    return loose, root / "shards"


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def names(loose):
    return sorted(path.relative_to(loose).as_posix() for path in loose.rglob("*") if path.is_file())


def test_shards_can_be_unpacked_with_any_tar(folders, tmp_path):
    loose, shards = folders
    for shard in sorted(shards.glob("*.tar")):
        subprocess.run(["tar", "-xf", shard, "-C", tmp_path], check=True)
    assert {name: (tmp_path / name).read_bytes() for name in names(loose)} == {
        n: (loose / n).read_bytes() for n in names(loose)
    }


def test_same_clips_give_the_same_bytes(folders, tmp_path):
    loose, shards = folders
    for path in loose.rglob("*"):
        os.utime(path, (1, 1))
    write_shards(loose, tmp_path / "again", clips=3)
    assert digests(tmp_path / "again") == digests(shards)
    assert sorted(digests(shards)) == [
        MANIFEST,
        "index.parquet",
        "shard-00000.tar",
        "shard-00001.tar",
        "shard-00002.tar",
    ]


def test_index_has_the_position_and_hash_of_each_clip(folders):
    loose, shards = folders
    assert sorted(name for _, name in list_clips(shards)) == names(loose)
    for shard, name in list_clips(shards):
        clip = locate_clip(shards / shard / name)
        assert clip.sha256 == hashlib.sha256((loose / name).read_bytes()).hexdigest()
        assert clip.shard.read_bytes()[clip.offset : clip.offset + clip.bytes] == (loose / name).read_bytes()


def test_frames_from_shards_equal_those_of_single_files(folders):
    loose, shards = folders
    for name in names(loose):
        inside = MediaFolder(shards, "video").path(name)
        for decoder in ("decord", "pyav"):
            expected, found = (read_frames(path, 4, 32, "random", random.Random(1), decoder) for path in (loose / name, inside))
            assert np.array_equal(expected, found)
        assert probe(inside) == probe(loose / name)


def test_corpus_reads_the_same_samples_from_shards(folders, tmp_path):
    table = tmp_path / "train.csv"
    rows = [f"clip{i},page{1 + i % 2},a caption of {i}" for i in range(7)]
    table.write_text("\n".join(["video_id,page_dir,text", *rows]) + "\n")
    samples = []
    for root in folders:
        records = read_corpus(Corpus(media="video", train=str(table), root=str(root)))
        assert missing_files(records) == []
        data = ClipDataset("corpus", records, "corpus", View(4, 32, "headtail"), seed=3)
        samples.append([data[0, row] for row in range(7)])
    for one, other in zip(*samples, strict=True):
        assert (one.ids, one.texts) == (other.ids, other.texts) and one.frames.equal(other.frames)


def test_image_in_a_shard_is_read(tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    Image.new("RGB", (20, 10), (200, 30, 90)).save(tmp_path / "in" / "a.png")
    write_shards(tmp_path / "in", tmp_path / "out")
    assert read_image(MediaFolder(tmp_path / "out", "image").path("a")).getpixel((3, 3)) == (200, 30, 90)


def test_video_index_probes_clips_again_when_their_shard_changed(folders, tmp_path):
    _, shards = folders
    paths = [shards / shard / name for shard, name in list_clips(shards)]
    cache = tmp_path / "cache.jsonl"
    infos = build_index(paths, tmp_path / "i.parquet", cache=cache)
    assert all(info.readable for info in infos.values())
    probed = []
    build_index(paths, tmp_path / "i.parquet", cache=cache, report=lambda done, total: probed.append(done))
    assert probed == []
    os.utime(shards / "shard-00000.tar")
    build_index(paths, tmp_path / "i.parquet", cache=cache, report=lambda done, total: probed.append(done))
    assert len(probed) == 3


def test_interrupted_run_resumes_and_rewrites_changed_shards(folders, tmp_path):
    loose, _ = folders
    output = tmp_path / "out"
    write_shards(loose, output, clips=3)
    times = {path.name: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    rows = (output / "index.parquet").read_bytes()
    (output / "shard-00002.tar").unlink()
    written = [path.name for path in output.iterdir()]
    OwnFiles(output, loose, written, [".shard-00002.tar"], record_source=False)  # a run starts ...
    (output / ".shard-00002.tar").write_bytes(b"half")  # ... and is killed
    write_shards(loose, output, clips=3)
    assert {p.name: p.stat().st_mtime_ns for p in output.glob("*.tar") if p.name != "shard-00002.tar"} == {
        name: time for name, time in times.items() if name != "shard-00002.tar"
    }
    assert (output / "index.parquet").read_bytes() == rows and [path.name for path in output.glob(".*")] == [MANIFEST]


def test_rewriting_with_fewer_clips_removes_old_shards(folders, tmp_path):
    loose, _ = folders
    write_shards(loose, tmp_path / "out", clips=1)
    write_shards(loose, tmp_path / "out", clips=4)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["shard-00000.tar", "shard-00001.tar"]


def test_truncated_shard_and_unknown_clip_are_reported(folders, tmp_path):
    loose, _ = folders
    write_shards(loose, tmp_path / "out", clips=3)
    with pytest.raises(DataError, match=r"shard-00000.tar/page1/other.mp4: not found"):
        read_frames(tmp_path / "out/shard-00000.tar/page1/other.mp4", 2, 32)
    last = [tmp_path / "out" / shard / name for shard, name in list_clips(tmp_path / "out")][-1]
    shard = last.parents[1]
    shard.write_bytes(shard.read_bytes()[: locate_clip(last).offset + 10])
    with pytest.raises(DataError, match=r"page2/clip5.mov: its shard was cut"):
        read_frames(last, 2, 32)
    assert probe(last).reason.endswith("its shard was cut")


def test_errors_name_the_clip_not_the_file_in_memory(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.mp4").write_text("<html>")
    write_shards(tmp_path / "in", tmp_path / "out")
    with pytest.raises(DataError, match=r"out/shard-00000.tar/bad.mp4: can't be read") as caught:
        read_frames(tmp_path / "out/shard-00000.tar/bad.mp4", 2, 32)
    assert "/proc" not in str(caught.value)


def test_files_are_closed_after_reading(folders):
    _, shards = folders
    path = shards / "shard-00000.tar" / next(name for _, name in list_clips(shards))
    read_frames(path, 2, 32)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read_frames(path, 2, 32)
    assert len(os.listdir("/proc/self/fd")) == before


def test_forked_worker_can_read(folders):
    _, shards = folders
    shard, name = next(iter(list_clips(shards)))
    expected = read_frames(shards / shard / name, 2, 32)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for found in pool.starmap(read_frames, [(shards / shard / name, 2, 32)] * 4):
            assert np.array_equal(found, expected)
