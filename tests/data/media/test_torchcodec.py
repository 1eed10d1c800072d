"""`loader.decoder: torchcodec` gives decord's frames, at their positions and upright."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from alpro.checks import preflight
from alpro.config import load
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


def test_nvdec_is_refused_in_one_line_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(with_torchcodec, "import_decoder", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = "loader.decoder: nvdec decodes on an NVIDIA GPU, and torch finds none here; use torchcodec or decord"
    with pytest.raises(ConfigError, match=f"^{line}$"):
        read_frames(make_video(tmp_path / "a.mp4"), 4, 32, decoder="nvdec")
    with pytest.raises(ConfigError, match=f"^{line}$"):
        preflight.check(load("recipes/tiny.yaml", ["loader.decoder=nvdec", "launch.processes=1"]))


def test_nvdec_decodes_on_the_gpu_of_the_process_and_returns_frames_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchCodec is replaced, as nothing here can decode on a GPU."""
    asked = []

    class Decoder:
        def __init__(self, path: str, **options: Any) -> None:
            asked.append(options)
            self.frames = torch.from_numpy(read_frames(path, list(range(10)), None, decoder="pyav", alone=True))

        def __len__(self) -> int:
            return len(self.frames)

        def get_frames_at(self, indices: list[int]) -> Any:
            return SimpleNamespace(data=self.frames[indices])

    monkeypatch.setattr(with_torchcodec, "import_decoder", lambda: Decoder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    video = make_video(tmp_path / "a.mp4", frames=10)
    found = read_frames(video, [7, 2], None, decoder="nvdec", alone=True)
    np.testing.assert_array_equal(found, read_frames(video, [7, 2], None, decoder="pyav"))
    assert [options["device"] for options in asked] == ["cuda:1"]

    def refuse(*args: Any, **options: Any) -> Any:
        raise RuntimeError("Unsupported device: cuda:1")

    monkeypatch.setattr(with_torchcodec, "import_decoder", lambda: refuse)
    with pytest.raises(ConfigError, match="this TorchCodec has no NVDEC; install its CUDA build, or use decord"):
        read_frames(video, 4, 32, decoder="nvdec")


def test_nvdec_in_worker_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loader\.decoder nvdec needs loader\.workers 0"):
        load("recipes/tiny.yaml", ["loader.decoder=nvdec", "loader.workers=2"])
