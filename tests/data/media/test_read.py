"""Both decoders give the same pixels, and unreadable files are refused with a reason."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from alpro.data.media.probe import probe
from alpro.data.media.read import read_frames, read_image
from alpro.errors import DataError
from tests.data.clips import make_video

TESTS = Path(__file__).parents[2]
GOLDENS, VIDEOS = TESTS / "goldens", TESTS / "videos"
MANIFEST = {entry["file"]: entry for entry in json.loads((VIDEOS / "manifest.json").read_text())}
REFUSED = {
    "decord_corrupted.mp4": "Invalid data",
    "made_empty_0bytes.mp4": "is empty",
    "made_text_not_a_video.mp4": "Invalid data",
    "small_Mpeg4.mp4": "no video stream",
}
ONLY_PYAV = {"small_webm.webm", "torchcodec_av1_video.mkv", "torchcodec_h265_video.mp4"}  # the last has open GOPs
READABLE = sorted(set(MANIFEST) - set(REFUSED))


@pytest.mark.parametrize(
    ("name", "count", "size"), [("uniform_4_224", 4, 224), ("uniform_8_224", 8, 224), ("uniform_8_256", 8, 256)]
)
@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_decoding_equals_the_released_pixels(name, count, size, decoder):
    golden = json.loads((GOLDENS / "l_decode.json").read_text())[name]
    frames = read_frames(GOLDENS / "l_clip.mp4", count, size, "uniform_floor", decoder=decoder, alone=True).transpose(
        0, 3, 1, 2
    )
    assert list(frames.shape) == golden["shape"]
    assert frames.mean() == pytest.approx(golden["mean"], rel=1e-6)
    arrays = np.load(GOLDENS / "l_decode.npz")
    if name in arrays.files:
        np.testing.assert_array_equal(frames[:, :, ::8, ::8], arrays[name])


@pytest.mark.parametrize("file", READABLE)
def test_every_readable_file_has_the_frames_and_size_of_the_manifest(file):
    expected, info = MANIFEST[file], probe(VIDEOS / file)
    width, height = expected["size"] if expected["rotation"] in (0, 180, -180) else expected["size"][::-1]
    assert (info.readable, info.reason) == (True, "")
    assert (info.frames, info.width, info.height) == (expected["n_frames"], width, height)
    assert info.sha256 == expected["sha256"] and info.bytes == expected["bytes"]
    assert info.decoder == ("pyav" if file in ONLY_PYAV else "decord")
    assert info.fps == pytest.approx(expected.get("fps", 1000.0), abs=1e-5)
    assert info.rotation == -expected["rotation"] % 360
    assert read_frames(VIDEOS / file, 2, None).shape == (2, height, width, 3)
    assert read_frames(VIDEOS / file, 8, 96).shape == (8, 96, 96, 3)


@pytest.mark.parametrize("file", [file for file in READABLE if file not in ONLY_PYAV])
def test_both_decoders_give_the_same_pixels(file):
    """Both decoders choose the same stream, apply the same rotation and scale with the same arithmetic."""
    total = probe(VIDEOS / file, digest=False).frames
    frames = list(range(min(8, total)))
    decord, pyav = (read_frames(VIDEOS / file, frames, 96, decoder=decoder, alone=True) for decoder in ("decord", "pyav"))
    np.testing.assert_array_equal(decord, pyav)
    decord, pyav = (read_frames(VIDEOS / file, frames, None, decoder=decoder, alone=True) for decoder in ("decord", "pyav"))
    assert decord.shape == pyav.shape
    assert np.abs(decord.astype(int) - pyav).mean() < 2  # colours of odd sides and 10 bits differ a bit, unscaled


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_frames_are_in_the_order_in_which_they_are_asked_for(decoder):
    file = GOLDENS / "l_clip.mp4"
    forwards = read_frames(file, [1, 5, 9], 64, decoder=decoder, alone=True)
    np.testing.assert_array_equal(read_frames(file, [9, 5, 1], 64, decoder=decoder, alone=True), forwards[::-1])


@pytest.mark.parametrize("file", REFUSED)
def test_undecodable_file_is_refused_with_name_and_reason(file):
    with pytest.raises(DataError, match=rf"{file}.*{REFUSED[file]}"):
        read_frames(VIDEOS / file, 8, 96)
    info = probe(VIDEOS / file)
    assert not info.readable and REFUSED[file] in info.reason and str(VIDEOS) not in info.reason
    assert info == probe(VIDEOS / file)  # the reason has no time and no memory address


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="not found"):
        read_frames(tmp_path / "nothing.mp4", 4, 32)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(DataError, match="is not a file"):
        read_frames(tmp_path / "folder.mp4", 4, 32)
    assert not probe(tmp_path / "nothing.mp4").readable


def test_second_decoder_reads_the_same_frames_if_the_first_fails(tmp_path, monkeypatch):
    import alpro.data.media.read as reading

    clip = make_video(tmp_path / "a.mp4", 40, codec="libx264")
    expected = read_frames(clip, 4, 32, "random", random.Random(7), "pyav")

    def fails(path, frames, indices, size):
        raise DataError("no")

    monkeypatch.setattr(reading, "read_with_decord", fails)
    np.testing.assert_array_equal(read_frames(clip, 4, 32, "random", random.Random(7)), expected)


def test_frames_are_returned_in_the_requested_order(tmp_path):
    clip = make_video(tmp_path / "a.mp4", 20, codec="libx264")
    every = read_frames(clip, range(20), 64)
    np.testing.assert_array_equal(read_frames(clip, [7, 3, 3, 19], 64), every[[7, 3, 3, 19]])
    with pytest.raises(DataError, match=r"frames \[20\] were requested, but the video has 20"):
        read_frames(clip, [20], 64)


def test_pyav_reads_sizes_that_decord_cannot(tmp_path):
    clip = make_video(tmp_path / "a.mp4", 20)
    for size in (16, 24, 48):
        assert read_frames(clip, 4, size).shape == (4, size, size, 3)


def test_names_with_spaces_and_non_ascii_letters_are_read(tmp_path):
    shutil.copy(VIDEOS / "made_5frames_480x270_from_nasa.mp4", tmp_path / "vidéo 日本 (1).mp4")
    assert read_frames(tmp_path / "vidéo 日本 (1).mp4", 4, 32).shape == (4, 32, 32, 3)


def test_images_are_read_as_rgb_and_broken_ones_refused(tmp_path):
    from PIL import Image

    Image.new("L", (9, 7), 100).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").mode == "RGB"
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    for name in ("page.jpg", "cut.jpg"):
        with pytest.raises(DataError, match=f"{name}: not a readable image"):
            read_image(tmp_path / name)
