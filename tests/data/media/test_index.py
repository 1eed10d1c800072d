"""The index: each file is probed once, again only if it changed, and the same files give the same bytes."""

import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import alpro.data.media.index as index
from alpro.data.media.index import build_index, cached_probes
from alpro.data.media.probe import probe

VIDEOS = Path(__file__).parents[2] / "videos"


@pytest.fixture
def folder(tmp_path):
    for name in ("made_5frames_480x270_from_nasa.mp4", "decord_video_90.mov", "small_webm.webm", "made_text_not_a_video.mp4"):
        shutil.copy(VIDEOS / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def probed(monkeypatch):
    names = []
    monkeypatch.setattr(index, "probe", lambda name, every: names.append(Path(name).name) or probe(name, every))
    return names


def files(folder):
    return sorted(path for path in folder.iterdir() if path.suffix in (".mp4", ".mov", ".webm"))


def test_index_has_the_properties_of_each_file(folder):
    built = build_index([*files(folder), folder / "gone.mp4"], folder / "index.parquet")
    rows = pq.read_table(folder / "index.parquet").to_pylist()
    assert rows == [{"path": path, **info.as_dict()} for path, info in built.items()]
    found = {Path(path).name: info for path, info in built.items()}
    assert {name: info.readable for name, info in found.items()} == {
        "decord_video_90.mov": True,
        "gone.mp4": False,
        "made_5frames_480x270_from_nasa.mp4": True,
        "made_text_not_a_video.mp4": False,
        "small_webm.webm": True,
    }
    assert (found["decord_video_90.mov"].width, found["decord_video_90.mov"].rotation) == (320, 90)
    assert found["small_webm.webm"].decoder == "pyav" and found["gone.mp4"].reason == "not found"


def test_only_changed_files_are_probed_again(folder, probed):
    out, cache = folder / "index.parquet", folder / "cache.jsonl"
    build_index(files(folder), out, cache=cache)
    first = out.read_bytes()
    probed.clear()
    build_index(files(folder), out, cache=cache)
    assert probed == [] and out.read_bytes() == first
    os.utime(folder / "small_webm.webm", ns=(1, 1))
    shutil.copy(VIDEOS / "decord_video_0.mov", folder / "decord_video_90.mov")
    build_index(files(folder), out, cache=cache)
    assert probed == ["decord_video_90.mov", "small_webm.webm"]
    build_index(files(folder), out, cache=cache, every_frame=False)  # another kind of probe
    assert len(probed) == 6


def test_interrupted_run_resumes(folder, probed, monkeypatch):
    out, cache = folder / "index.parquet", folder / "cache.jsonl"

    def interrupted(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(files(folder), out, cache=cache, report=interrupted)
    assert not out.exists()
    cache.write_text(cache.read_text() + '{"path": "half a li')  # as a kill leaves it
    probed.clear()
    build_index(files(folder), out, cache=cache)
    assert len(probed) == 2


def test_index_does_not_depend_on_processes_or_order(folder):
    build_index(files(folder), folder / "one.parquet")
    build_index(files(folder)[::-1] * 2, folder / "two.parquet", workers=2)
    assert (folder / "one.parquet").read_bytes() == (folder / "two.parquet").read_bytes()


def test_file_that_crashes_its_decoder_is_reported(folder, monkeypatch):
    monkeypatch.setattr(index, "_CHUNK", 1)
    (folder / "sitecustomize.py").write_text(
        "import os, alpro.data.media.probe as v\n"
        "real = v.probe\n"
        "v.probe = lambda name, *a, **k: os.abort() if 'decord_video' in str(name) else real(name, *a, **k)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}{os.pathsep}{Path.cwd()}")
    found = {Path(k).name: v for k, v in build_index(files(folder), folder / "i.parquet", workers=2).items()}
    assert found["decord_video_90.mov"].reason == "it crashes the decoder"
    assert found["small_webm.webm"].readable and found["made_5frames_480x270_from_nasa.mp4"].readable


def test_unchanged_files_are_read_from_the_cache(folder):
    built = build_index(files(folder), folder / "index.parquet", cache=folder / "cache.jsonl")
    shutil.copy(VIDEOS / "decord_video_0.mov", folder / "decord_video_90.mov")
    cached = cached_probes([*files(folder), folder / "never.mp4"], folder / "cache.jsonl")
    assert cached == {path: info for path, info in built.items() if not path.endswith("decord_video_90.mov")}
    assert cached_probes(files(folder), folder / "no_cache.jsonl") == {}
