"""Frames: which ones, that both decoders give the same, and that what can't be read is refused with a reason."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from alpro.data.media.containers import hides_frames, missing_bytes
from alpro.data.media.frames import frame_indices
from alpro.data.media.probe import probe
from alpro.data.media.read import read_frames, read_image
from alpro.errors import DataError
from tests.data.clips import make_video

TESTS = Path(__file__).parents[2]
GOLDENS, VIDEOS = TESTS / "goldens", TESTS / "videos"
SAMPLING = json.loads((GOLDENS / "j_frame_sampling.json").read_text())
MANIFEST = {entry["file"]: entry for entry in json.loads((VIDEOS / "manifest.json").read_text())}
REFUSED = {
    "decord_corrupted.mp4": "Invalid data",
    "made_empty_0bytes.mp4": "is empty",
    "made_text_not_a_video.mp4": "Invalid data",
    "small_Mpeg4.mp4": "no video stream",
}
ONLY_PYAV = {"small_webm.webm", "torchcodec_av1_video.mkv"}
READABLE = sorted(set(MANIFEST) - set(REFUSED))


def sizes(case):
    total, count = case.removeprefix("vlen").split("_frm")
    return int(total), int(count)


@pytest.mark.parametrize("case", SAMPLING["uniform"])
def test_uniform_floor_is_the_released_rule(case):
    assert frame_indices(*sizes(case), "uniform_floor") == SAMPLING["uniform"][case]["indices"]


@pytest.mark.parametrize(("strategy", "golden"), [("random", "rand"), ("headtail", "headtail")])
def test_drawn_frames_repeat_the_released_draws(strategy, golden):
    for case, wanted in SAMPLING[golden].items():
        if isinstance(wanted, list):
            assert frame_indices(*sizes(case), strategy, random.Random(0)) == wanted


@pytest.mark.parametrize("strategy", ["uniform", "uniform_floor", "random", "headtail"])
def test_any_clip_gives_the_number_of_frames_asked_for_in_order(strategy):
    for total in (*range(1, 40), 300, 20000):
        for count in (1, 2, 3, 4, 8, 16):
            indices = frame_indices(total, count, strategy, random.Random(1))
            assert len(indices) == count and indices == sorted(indices) and indices[0] >= 0 and indices[-1] < total


def test_uniform_covers_the_whole_clip_evenly():
    assert frame_indices(30, 16, "uniform")[-1] == 29
    for total in range(1, 200):
        for count in (4, 8, 16):
            indices = np.array(frame_indices(total, count, "uniform"))
            assert np.ptp(np.diff(indices)) <= 1  # even steps
            assert abs(indices[0] - (total - 1 - indices[-1])) <= 1  # as far from the end as from the start
            if total <= count:
                assert set(indices) == set(range(total))


def test_head_and_tail_come_from_their_halves():
    for total in range(2, 60):
        indices = frame_indices(total, 8, "headtail", random.Random(total))
        assert max(indices[:4]) < total // 2 <= min(indices[4:])


def test_no_frame_at_all_is_an_error():
    with pytest.raises(DataError, match="no frames"):
        frame_indices(0, 4, "uniform")


@pytest.mark.parametrize(
    ("name", "count", "size"), [("uniform_4_224", 4, 224), ("uniform_8_224", 8, 224), ("uniform_8_256", 8, 256)]
)
@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_decoding_equals_the_released_pixels(name, count, size, decoder):
    golden = json.loads((GOLDENS / "l_decode.json").read_text())[name]
    frames = read_frames(GOLDENS / "l_clip.mp4", count, size, "uniform_floor", decoder=decoder).transpose(0, 3, 1, 2)
    assert list(frames.shape) == golden["shape"]
    assert frames.mean() == pytest.approx(golden["mean"], rel=1e-6)
    arrays = np.load(GOLDENS / "l_decode.npz")
    if name in arrays.files:
        np.testing.assert_array_equal(frames[:, :, ::8, ::8], arrays[name])


@pytest.mark.parametrize("file", READABLE)
def test_every_readable_file_has_the_frames_and_size_of_the_manifest(file):
    wanted, info = MANIFEST[file], probe(VIDEOS / file)
    width, height = wanted["size"] if wanted["rotation"] in (0, 180, -180) else wanted["size"][::-1]
    assert (info.readable, info.reason) == (True, "")
    assert (info.frames, info.width, info.height) == (wanted["n_frames"], width, height)
    assert info.sha256 == wanted["sha256"] and info.bytes == wanted["bytes"]
    assert info.decoder == ("pyav" if file in ONLY_PYAV else "decord")
    assert info.fps == pytest.approx(wanted.get("fps", 1000.0), abs=1e-5)
    assert info.rotation == -wanted["rotation"] % 360
    assert read_frames(VIDEOS / file, 2, None).shape == (2, height, width, 3)
    assert read_frames(VIDEOS / file, 8, 96).shape == (8, 96, 96, 3)


@pytest.mark.parametrize("file", [file for file in READABLE if file not in ONLY_PYAV])
def test_both_decoders_give_the_same_pixels(file):
    """The same stream of two, turned the same way, scaled by the same arithmetic."""
    total = probe(VIDEOS / file, digest=False).frames
    frames = list(range(min(8, total)))
    decord, pyav = (read_frames(VIDEOS / file, frames, 96, decoder=decoder) for decoder in ("decord", "pyav"))
    np.testing.assert_array_equal(decord, pyav)
    decord, pyav = (read_frames(VIDEOS / file, frames, None, decoder=decoder) for decoder in ("decord", "pyav"))
    assert decord.shape == pyav.shape
    assert np.abs(decord.astype(int) - pyav).mean() < 2  # colours of odd sides and 10 bits differ a bit, unscaled


@pytest.mark.parametrize("file", REFUSED)
def test_what_no_decoder_reads_is_refused_with_its_name_and_reason(file):
    with pytest.raises(DataError, match=rf"{file}.*{REFUSED[file]}"):
        read_frames(VIDEOS / file, 8, 96)
    info = probe(VIDEOS / file)
    assert not info.readable and REFUSED[file] in info.reason and str(VIDEOS) not in info.reason
    assert info == probe(VIDEOS / file)  # no clock, no address in the reason


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="not found"):
        read_frames(tmp_path / "nothing.mp4", 4, 32)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(DataError, match="no file"):
        read_frames(tmp_path / "folder.mp4", 4, 32)
    assert not probe(tmp_path / "nothing.mp4").readable


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.avi", "mpeg4", {}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.mp4", "libx264", {}),
        ("front.mp4", "libx264", {"movflags": "faststart"}),
        ("a.mov", "libx264", {}),
        ("a.wmv", "wmv2", {}),
    ],
)
def test_a_file_that_was_cut_is_refused_though_it_opens(tmp_path, name, codec, options):
    whole = make_video(tmp_path / name, 60, codec=codec, options=options)
    assert probe(whole).readable and probe(whole).frames == 60 and missing_bytes(whole) == 0
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    info = probe(cut)
    assert not info.readable and "was cut" in info.reason and missing_bytes(cut) > 0
    with pytest.raises(DataError, match=f"cut_{name}"):
        read_frames(cut, 4, 32)


def test_an_avi_that_only_lost_its_index_is_read(tmp_path):
    whole = make_video(tmp_path / "a.avi", 60)
    short = tmp_path / "short.avi"
    short.write_bytes(whole.read_bytes()[:-20])
    assert probe(short).readable
    np.testing.assert_array_equal(read_frames(short, 4, 32), read_frames(whole, 4, 32))


def trimmed(whole, start_s=0, end_s=None):
    """The same bytes under an edit list that shows a part."""
    content = bytearray(whole.read_bytes())
    at = content.index(b"elst") + 12  # after version, flags and the number of edits: duration, start
    movie_ticks = int.from_bytes(content[(i := content.index(b"mvhd")) + 16 : i + 20], "big")
    ticks = int.from_bytes(content[(i := content.index(b"mdhd")) + 16 : i + 20], "big")
    first = int.from_bytes(content[at + 4 : at + 8], "big")
    if end_s is not None:
        content[at : at + 4] = int((end_s - start_s) * movie_ticks).to_bytes(4, "big")
    content[at + 4 : at + 8] = int(first + start_s * ticks).to_bytes(4, "big")
    part = whole.with_name(f"trimmed_{start_s}_{end_s}.mp4")
    part.write_bytes(content)
    return part


def test_frames_that_an_edit_list_hides_are_not_read(tmp_path):
    """A film trimmed on a phone: 60 frames in the file, 12 a second, of which a player shows a part."""
    whole = make_video(tmp_path / "a.mp4", 60, codec="libx264")
    every = read_frames(whole, range(60), 32)
    assert not hides_frames(whole) and probe(whole).decoder == "decord"
    for start, end, shown in ((1, None, range(12, 60)), (0, 3, range(36)), (2, 4, range(24, 48))):
        part = trimmed(whole, start, end)
        info = probe(part)
        assert hides_frames(part) and (info.readable, info.frames, info.decoder) == (True, len(shown), "pyav")
        np.testing.assert_array_equal(read_frames(part, range(info.frames), 32), every[list(shown)])


def test_the_second_decoder_reads_the_frames_that_the_first_would_have(tmp_path, monkeypatch):
    import alpro.data.media.decoders as video

    clip = make_video(tmp_path / "a.mp4", 40, codec="libx264")
    wanted = read_frames(clip, 4, 32, "random", random.Random(7))

    def fails(path, choose, size):
        choose(40)
        raise DataError("no")

    monkeypatch.setattr(video, "_read_decord", fails)
    np.testing.assert_array_equal(read_frames(clip, 4, 32, "random", random.Random(7)), wanted)


def test_frames_by_number_come_as_asked_for(tmp_path):
    clip = make_video(tmp_path / "a.mp4", 20, codec="libx264")
    every = read_frames(clip, range(20), 64)
    np.testing.assert_array_equal(read_frames(clip, [7, 3, 3, 19], 64), every[[7, 3, 3, 19]])
    with pytest.raises(DataError, match="20 there"):
        read_frames(clip, [20], 64)


def test_sides_that_decord_can_not_give_come_from_pyav(tmp_path):
    clip = make_video(tmp_path / "a.mp4", 20)
    for size in (16, 24, 48):
        assert read_frames(clip, 4, size).shape == (4, size, size, 3)


def test_names_with_spaces_and_other_letters_are_read(tmp_path):
    shutil.copy(VIDEOS / "made_5frames_480x270_from_nasa.mp4", tmp_path / "vidéo 日本 (1).mp4")
    assert read_frames(tmp_path / "vidéo 日本 (1).mp4", 4, 32).shape == (4, 32, 32, 3)


def test_images_are_rgb_and_broken_ones_refused(tmp_path):
    from PIL import Image

    Image.new("L", (9, 7), 100).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").mode == "RGB"
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    for name in ("page.jpg", "cut.jpg"):
        with pytest.raises(DataError, match=f"{name}: no readable image"):
            read_image(tmp_path / name)
