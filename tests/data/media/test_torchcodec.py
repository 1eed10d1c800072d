"""`loader.decoder: torchcodec` gives decord's frames, at their positions and upright."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from alpro.data.media import with_torchcodec
from alpro.data.media.probe import probe
from alpro.data.media.read import read_frames
from alpro.errors import ConfigError
from tests.data.clips import make_video

from .test_orientation import MATRICES, marked, shown, with_matrix
from .test_read import READABLE, VIDEOS

SCALED = 6  # decord scales while it converts, which gives 253 for white and other edges
OTHER_COLOURS = {  # odd sizes and 10 bits: largest mean difference of a pixel, of 255
    "made_odd_321x179_vp9_from_nasa.webm": 0.2,
    "torchcodec_h264_10bits.mp4": 0.8,
    "torchcodec_h265_10bits.mp4": 0.8,
}


@pytest.fixture
def torchcodec() -> None:
    try:
        with_torchcodec.import_decoder()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("torchcodec")
@pytest.mark.parametrize("file", READABLE)
def test_frames_are_those_of_the_other_decoders(file: str) -> None:
    total = probe(VIDEOS / file, digest=False).frames
    indices = sorted({0, total - 1, total // 2, total // 3})[::-1]  # backwards: each needs a seek
    frames = read_frames(VIDEOS / file, indices, None, decoder="torchcodec", alone=True)
    expected = read_frames(VIDEOS / file, indices, None, decoder="pyav")
    assert frames.shape == expected.shape and frames.dtype == np.uint8
    difference = np.abs(frames.astype(int) - expected)
    assert difference.mean() <= OTHER_COLOURS.get(file, 0)
    small = read_frames(VIDEOS / file, indices, 96, decoder="torchcodec", alone=True).astype(int)
    difference = np.abs(small - read_frames(VIDEOS / file, indices, 96, decoder="pyav"))
    assert difference.mean() < SCALED


@pytest.mark.usefixtures("torchcodec")
@pytest.mark.parametrize("name", ["sample.mp4", "sample.avi", "sample.mkv"])
def test_every_frame_of_a_sample_video_is_at_its_position(tmp_path: Path, name: str) -> None:
    video = make_video(tmp_path / name, frames=30)
    frames = read_frames(video, list(range(30)), None, decoder="torchcodec")
    np.testing.assert_array_equal(frames, read_frames(video, list(range(30)), None, decoder="decord"))


@pytest.mark.usefixtures("torchcodec")
@pytest.mark.parametrize("matrix", MATRICES)
def test_frames_are_upright(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    video = with_matrix(tmp_path / "a.mp4", matrix)
    expected = shown(marked(), matrix).astype(int)
    for size in (None, 32):
        frames = read_frames(video, [0, 5], size, decoder="torchcodec", alone=True)
        assert np.abs(frames.astype(int) - read_frames(video, [0, 5], size)).mean() < SCALED
    assert np.abs(read_frames(video, [0], None, decoder="torchcodec", alone=True)[0] - expected).mean() < 6


def test_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchcodec", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, name, None)
    with_torchcodec.import_decoder.cache_clear()
    with pytest.raises(ConfigError, match=r"TorchCodec is not installed; run `pip install 'alpro\[torchcodec\]'`"):
        read_frames(make_video(tmp_path / "a.mp4"), 4, 32, decoder="torchcodec")
    with_torchcodec.import_decoder.cache_clear()
