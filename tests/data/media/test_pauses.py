"""Pauses of an .avi are no frames, and 16 bits of grey are not white."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from alpro.config import Convert
from alpro.data.copies.convert import convert_file
from alpro.data.media.containers import empty_slots
from alpro.data.media.probe import probe
from alpro.data.media.read import read_frames, read_image
from tests.data.media.test_substitution import numbers, picture


def with_pauses(path: Path, times: list[int], codec: str = "mpeg4") -> Path:
    """Write an .avi whose frames are shown at these multiples of 1/25 s; FFmpeg fills the pauses with empty chunks."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "6"})
        stream.width = stream.height = 64
        stream.pix_fmt, stream.thread_count, stream.bit_rate = "yuv420p", 1, 2_000_000
        packets = []
        for number in range(len(times)):
            packets += stream.encode(av.VideoFrame.from_ndarray(picture(number), "rgb24"))
        packets += stream.encode()
        for packet, time in zip(packets, times, strict=True):
            packet.pts = packet.dts = time
            packet.duration = 1
            container.mux(packet)
    return path


@pytest.mark.parametrize("codec", ["mpeg4", "msmpeg4"])
@pytest.mark.parametrize(
    "times", [[3 * i for i in range(24)], [0, 1, 2, 30, 31, 90], list(range(12)), [i * i for i in range(10)]]
)
def test_pauses_of_an_avi_are_no_frames(tmp_path, times, codec):
    video = with_pauses(tmp_path / "a.avi", times, codec)
    assert empty_slots(video, 0) == times[-1] + 1 - len(times)
    info = probe(video)
    assert (info.readable, info.frames, info.reason) == (True, len(times), "")
    assert numbers(read_frames(video, range(len(times)), 64)) == list(range(len(times)))
    assert convert_file(video, tmp_path / "copy.mp4", Convert(source="a", output="b")) == ""
    assert probe(tmp_path / "copy.mp4").frames == len(times)


def test_an_avi_with_pauses_that_was_cut_is_still_refused(tmp_path):
    video = with_pauses(tmp_path / "a.avi", [3 * i for i in range(24)])
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    info = probe(video)
    assert not info.readable and "was cut" in info.reason


def test_other_containers_have_no_empty_slots(tmp_path):
    (tmp_path / "a.avi").write_bytes(b"RIFF\x10\x00\x00\x00WAVEdata")
    assert empty_slots(tmp_path / "a.avi", 0) == 0


@pytest.mark.parametrize("kind", ["png", "pgm"])
@pytest.mark.parametrize("turned", [False, True])
def test_sixteen_bits_of_grey_become_a_ramp(tmp_path, kind, turned):
    from PIL import Image

    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(32, 0)
    file = tmp_path / "ramp.png"
    if kind == "png":
        exif = Image.Exif()
        exif[0x0112] = 3 if turned else 1  # upside down
        Image.fromarray(ramp).save(file, exif=exif)
    else:  # Pillow opens it with 32 bits
        file.write_bytes(b"P5 64 32 65535\n" + ramp.astype(">u2").tobytes())
        turned = False
    pixels = np.asarray(read_image(file))
    assert pixels.shape == (32, 64, 3)
    expected = np.linspace(0, 255, 64)[:: -1 if turned else 1]
    assert np.abs(pixels.astype(float) - expected[None, :, None]).max() <= 1
