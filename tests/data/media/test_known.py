"""A file that a probe has checked is read without another check, until it changes."""

from __future__ import annotations

import numpy as np
import pytest

from alpro.data.media import known, read
from alpro.data.media.index import build_index, trust_probes
from alpro.data.media.read import read_frames
from alpro.data.media.shards import write_shards
from alpro.errors import DataError
from tests.data.clips import make_video


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(known, "_keys", np.empty(0, np.uint64))
    monkeypatch.setattr(known, "_values", np.empty(0, np.uint64))


@pytest.fixture
def checks(monkeypatch):
    """Return the list of files that are checked while frames are read."""
    checked, check = [], read.check_frames
    monkeypatch.setattr(read, "check_frames", lambda path, *rest: (checked.append(path), check(path, *rest))[1])
    return checked


def test_checked_files_are_not_checked_again(tmp_path, checks):
    files = [make_video(tmp_path / name, 20) for name in ("a.avi", "b.mp4")]
    before = [read_frames(file, 4, 32) for file in files]
    build_index(files, tmp_path / "index.parquet", cache=tmp_path / "cache.jsonl")
    checks.clear()
    trust_probes(tmp_path / "cache.jsonl")
    for file, frames in zip(files, before, strict=True):
        np.testing.assert_array_equal(read_frames(file, 4, 32), frames)
    assert checks == []
    make_video(files[0], 24)
    assert len(read_frames(files[0], range(24), 32)) == 24
    assert checks == [files[0]]


def test_clips_in_shards_are_known_by_their_shard(tmp_path, checks):
    (tmp_path / "in").mkdir()
    make_video(tmp_path / "in" / "a.mp4", 20, codec="libx264")
    write_shards(tmp_path / "in", tmp_path / "out")
    clip = tmp_path / "out" / "shard-00000.tar" / "a.mp4"
    build_index([clip], tmp_path / "index.parquet", cache=tmp_path / "cache.jsonl")
    trust_probes(tmp_path / "cache.jsonl")
    checks.clear()
    assert read_frames(clip, 4, 32).shape == (4, 32, 32, 3) and checks == []


def test_unreadable_files_and_other_caches_are_never_trusted(tmp_path, checks):
    whole = make_video(tmp_path / "a.avi", 60)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    build_index([whole], tmp_path / "index.parquet", cache=tmp_path / "cache.jsonl")
    trust_probes(tmp_path / "cache.jsonl")
    trust_probes(tmp_path / "no_such_cache.jsonl")
    (tmp_path / "old.jsonl").write_text('{"path": "a", "size": 1}\n{"pa')
    trust_probes(tmp_path / "old.jsonl")
    assert len(known._keys) == 0
    with pytest.raises(DataError, match="cut"):
        read_frames(whole, 4, 32)


def test_frames_and_orientation_are_kept(tmp_path):
    from alpro.data.media.orientation import Orientation
    from alpro.data.media.strict import Frames

    file = tmp_path / "file"
    file.write_text("x")
    stat = file.stat()
    for frames in (Frames(7, True), Frames(2**31, False, Orientation(270, True)), Frames(1, True, Orientation(90))):
        known.trust([(str(file), stat.st_size, stat.st_mtime_ns, frames)])  # the latest counts
        assert known.known_frames(file) == frames
    assert known.known_frames(tmp_path / "other") is None
