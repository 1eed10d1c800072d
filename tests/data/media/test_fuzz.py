"""Damaged videos of fixed seeds are read truthfully or refused; see `fuzz` for what is checked, and for more of them."""

from __future__ import annotations

import av
import pytest

from alpro.config import Convert
from alpro.data.copies.convert import convert_file
from alpro.data.media.probe import probe
from alpro.data.media.read import read_frames
from alpro.errors import DataError
from tests.data.media import fuzz
from tests.data.media.test_substitution import encode, numbers, picture


def test_some_damaged_videos(tmp_path):
    outcomes, violations = fuzz.run(50_000, 6, tmp_path)
    assert violations == []
    assert sum(outcomes.values()) == 6


@pytest.mark.slow
def test_two_thousand_damaged_videos(tmp_path):
    outcomes, violations = fuzz.run(0, 2000, tmp_path)
    assert violations == []
    assert sum(count for outcome, count in outcomes.items() if outcome.startswith("read")) > 300
    assert outcomes["refused"] > 300


def test_substituted_frames_are_noticed(tmp_path, monkeypatch):
    """The comparison itself: a reader that repeats neighbours, as decord does, is found out."""
    from alpro.data.media import read

    sources = fuzz.make_sources(tmp_path)
    video = tmp_path / "a.mp4"
    video.write_bytes(sources["plain.mp4"])
    assert fuzz.violations(video, convert=True) == ("read by decord", [])
    original = read._read_frames

    def repeat(*args):
        frames = original(*args)
        frames[-1] = frames[0]
        return frames

    monkeypatch.setattr(read, "_read_frames", repeat)
    assert any("of the strict decoder's" in fault for fault in fuzz.violations(video, convert=False)[1])


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")])
def test_titles_need_not_be_utf_8(tmp_path, name, codec):
    """A title in Latin-1 led to a UnicodeDecodeError."""
    with av.open(str(tmp_path / name), "w") as container:
        container.metadata["title"] = "Urlaub in Xxxxx"
        stream = container.add_stream(codec, rate=25, options={"bf": "0"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for number in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), "rgb24")))
        container.mux(stream.encode())
    video = tmp_path / name
    content = video.read_bytes().replace(b"Xxxxx", "Süden".encode("latin-1"))
    video.write_bytes(content)
    assert b"S\xfcden" in content and (probe(video).readable, probe(video).frames) == (True, 10)
    assert numbers(read_frames(video, [2, 8], 64)) == [2, 8]
    assert convert_file(video, tmp_path / "copy.mp4", Convert(source="a", output="b")) == ""


def test_a_stream_without_a_decoder_is_refused(tmp_path):
    """A flipped bit in the name of the codec led to an AttributeError."""
    video = encode(tmp_path / "a.mp4", "libx264")
    video.write_bytes(video.read_bytes().replace(b"avc1", b"zzz1"))
    assert "no decoder" in probe(video).reason or "can't be opened" in probe(video).reason
    with pytest.raises(DataError, match=r"a\.mp4"):
        read_frames(video, 4, 64)
