"""Copies have the requested frames, upright and with equal colours; originals are kept, unreadable ones are listed."""

import hashlib
import os
from pathlib import Path

import av
import numpy as np
import pytest

from alpro.config import Convert, parse
from alpro.data.copies import convert as module
from alpro.data.copies.convert import conversion_settings, convert, convert_file, select_frames
from alpro.data.media.probe import probe
from alpro.data.media.read import read_frames
from alpro.errors import ConfigError, DataError, OutputError
from alpro.files.outputs import MANIFEST, OwnFiles, read_manifest
from tests.data.clips import make_video

VIDEOS = Path(__file__).parents[2] / "videos"


def settings(source, output, **options):
    return Convert(source=str(source), output=str(output), **options)


def copy_of(path, tmp_path, **options):
    target = tmp_path / "copy.mp4"
    assert convert_file(path, target, settings("a", "b", **options)) == ""
    return target


def test_every_tenth_frame_is_kept_at_a_tenth_of_the_rate(tmp_path):
    video = make_video(tmp_path / "a.avi", frames=200, rate=25)
    copy = copy_of(video, tmp_path, every=10, crf=1)
    info = probe(copy)
    assert (info.readable, info.frames, info.fps) == (True, 20, 2.5)
    expected, found = read_frames(video, list(range(0, 200, 10)), 64), read_frames(copy, list(range(20)), 64)
    assert np.abs(expected.astype(int) - found).mean() < 3


def test_two_frames_per_second_are_kept_but_more_of_a_short_clip(tmp_path):
    assert probe(copy_of(make_video(tmp_path / "a.avi", frames=240, rate=12), tmp_path, fps=2)).frames == 40
    assert probe(copy_of(make_video(tmp_path / "b.avi", frames=24, rate=12), tmp_path, fps=2)).frames == 16
    assert probe(copy_of(make_video(tmp_path / "c.avi", frames=5, rate=12), tmp_path, fps=2)).frames == 5


def test_kept_frames_are_spread_over_the_whole_clip():
    keep, rate = select_frames(300, 30.0, settings("a", "b", fps=2))
    assert [i for i in range(300) if keep(i)] == list(range(0, 300, 15)) and rate == 2
    keep, _ = select_frames(50, 25.0, settings("a", "b", every=10, min_frames=8))  # every tenth frame would be five frames
    assert sum(map(keep, range(50))) == 8 and keep(0) and keep(43)


def test_short_side_is_never_enlarged(tmp_path):
    video = make_video(tmp_path / "a.avi", frames=6, size=64)
    assert probe(copy_of(video, tmp_path, short_side=32)).width == 32
    assert probe(copy_of(video, tmp_path, short_side=224)).width == 64


def test_every_group_of_pictures_is_short_and_closed(tmp_path):
    copy = copy_of(make_video(tmp_path / "a.avi", frames=30), tmp_path, gop=4)
    with av.open(str(copy)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [i for i, packet in enumerate(packets) if packet.is_keyframe] == list(range(0, 30, 4))
    assert all(packet.pts == packet.dts for packet in packets)  # shown in the order in which they are decoded


@pytest.mark.parametrize("name", ["decord_video_90.mov", "decord_video_270.mov", "torchcodec_h264_10bits.mp4"])
def test_copy_is_upright_with_the_same_colours(tmp_path, name):
    copy = copy_of(VIDEOS / name, tmp_path, crf=4)
    assert probe(copy).rotation == 0
    expected, found = (read_frames(path, 4, 64).astype(int) for path in (VIDEOS / name, copy))
    assert np.abs(expected - found).mean() < 4


def test_same_video_gives_the_same_bytes(tmp_path):
    video = make_video(tmp_path / "a.avi")
    assert copy_of(video, tmp_path).read_bytes() == copy_of(video, tmp_path).read_bytes()


def test_folder_conversion_resumes_after_a_stop(tmp_path):
    source, output, state = tmp_path / "in", tmp_path / "out", tmp_path / "state"
    (source / "page").mkdir(parents=True)
    make_video(source / "a.avi")
    make_video(source / "page" / "b.mov")
    (source / "bad.mp4").write_text("<html>")
    (source / "notes.txt").write_text("no video")
    cut = make_video(tmp_path / "whole.avi", frames=60).read_bytes()
    (source / "cut.avi").write_bytes(cut[: len(cut) // 2])
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in source.rglob("*") if path.is_file()}
    summary = convert(settings(source, output), workers=1, state=state)
    assert (summary.converted, summary.up_to_date, summary.unreadable) == (4, 0, 2)
    assert sorted(p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()) == [
        MANIFEST,
        "a.mp4",
        "page/b.mp4",
        "unreadable.tsv",
    ]
    listed = (output / "unreadable.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == ["bad.mp4", "cut.avi"]
    assert before == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in before}

    first = (output / "a.mp4").stat().st_mtime_ns
    (output / "page/b.mp4").unlink()  # as if it had been stopped before
    OwnFiles(output, source, read_manifest(output), [".c.mp4.part"])  # a run starts ...
    (output / ".c.mp4.part").write_bytes(b"half")  # ... and is killed
    summary = convert(settings(source, output), workers=1, state=state)
    assert (summary.converted, summary.up_to_date) == (1, 3) and (output / "page/b.mp4").exists()
    assert (output / "a.mp4").stat().st_mtime_ns == first and not (output / ".c.mp4.part").exists()

    (source / "a.avi").unlink()
    (source / "bad.mp4").unlink()
    (source / "cut.avi").unlink()
    summary = convert(settings(source, output), workers=1, state=state)
    assert (summary.converted, summary.up_to_date, summary.unreadable) == (0, 1, 0)
    assert not (output / "a.mp4").exists() and not (output / "unreadable.tsv").exists()


def test_other_settings_make_new_copies(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    make_video(source / "a.avi", frames=40)
    assert convert(settings(source, output), 1, tmp_path / "s").converted == 1
    assert convert(settings(source, output, every=2), 1, tmp_path / "s").converted == 1
    assert probe(output / "a.mp4").frames == 20


@pytest.mark.slow
def test_file_that_crashes_the_decoder_is_listed_and_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "convert_file", crash)
    jobs = [(tmp_path / name, tmp_path / f"{name}.mp4") for name in ("a", "crash", "b")]
    outcomes = dict(module._run(jobs, settings("a", "b"), workers=2))
    assert outcomes == {jobs[0]: "", jobs[1]: "it crashes the decoder", jobs[2]: ""}


def crash(source, target, settings):
    if source.name == "crash":
        os._exit(11)
    return ""


def test_copies_are_never_written_among_the_originals(tmp_path):
    make_video(tmp_path / "a.avi")
    with pytest.raises(OutputError, match=r"is inside .*, which is read; give a folder outside it"):
        convert(settings(tmp_path, tmp_path / "out"))


def test_two_originals_with_the_same_name_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.avi", "a.mov"):
        make_video(tmp_path / "in" / name, frames=2)
    with pytest.raises(DataError, match=r"a.avi and .*a.mov: would get the same name"):
        convert(settings(tmp_path / "in", tmp_path / "out"))


def test_invalid_conversion_options_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="give `every` or `fps`, not both"):
        conversion_settings(tmp_path, None, source="a", output="b", every=2, fps=2)
    with pytest.raises(ConfigError, match="name an entry"):
        conversion_settings(tmp_path, None, source="a")


def test_converted_folder_is_an_output_and_its_originals_are_inputs(tmp_path, monkeypatch):
    import yaml

    from alpro.checks.preflight import missing_inputs

    raw = yaml.safe_load(Path("recipes/official.yaml").read_text())
    raw["convert"] = {"didemo": {"source": "data/didemo_ret/originals", "output": "data/didemo_ret/videos"}}
    monkeypatch.chdir(tmp_path)
    missing = {entry.path: entry.needed_by for entry in missing_inputs(parse(raw))}
    assert "data/didemo_ret/videos" not in missing
    assert missing["data/didemo_ret/originals"] == "convert.didemo"
