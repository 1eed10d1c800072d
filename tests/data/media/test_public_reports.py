"""Faults of decoding that users of other projects have reported; each test names the report and shows that it is avoided."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest

from alpro.config import Convert
from alpro.data.copies.convert import convert_file
from alpro.data.media.probe import probe
from alpro.data.media.read import read_frames
from alpro.errors import DataError
from tests.data.media.test_substitution import NO_B_FRAMES, encode, numbers, picture, without


def assert_positions(video: Path, count: int, first: int = 0) -> None:
    """Check that all frames, and single ones, are at their positions."""
    info = probe(video)
    assert (info.readable, info.frames, info.reason) == (True, count, "")
    assert numbers(read_frames(video, range(count), 64)) == list(range(first, first + count))
    some = [1, count // 3, count // 2, count - 2]
    assert numbers(read_frames(video, some, 64)) == [first + index for index in some]


def test_frames_that_a_container_counts_but_does_not_have(tmp_path):
    """https://github.com/dmlc/decord/issues/373 and 375: `get_batch` hung, or repeated frames, at the end of such files."""
    whole = encode(tmp_path / "whole.mp4", "libx264", **NO_B_FRAMES)
    broken = without(whole, {36}, "broken.mp4")
    for indices in ([0, 15, 31, 46], [0, 46], range(47)):
        with pytest.raises(DataError, match="of 47 frames decode"):
            read_frames(broken, indices, 64)


@pytest.mark.parametrize("codec", ["mpeg4", "msmpeg4"])
def test_positions_in_an_avi(tmp_path, codec):
    """https://github.com/dmlc/decord/issues/252 and 195: other frames of an .avi than those requested."""
    assert_positions(encode(tmp_path / "a.avi", codec, bf="2" if codec == "mpeg4" else "0"), 48)


def test_positions_with_many_b_frames(tmp_path):
    """https://github.com/dmlc/decord/issues/365: frames out of order in a video with many B-frames."""
    assert_positions(encode(tmp_path / "a.mp4", "libx264", bf="8", refs="4"), 48)


def test_positions_in_vp8(tmp_path):
    """https://github.com/dmlc/decord/issues/91: always the first seconds of a VP8 video."""
    assert_positions(encode(tmp_path / "a.webm", "libvpx", **{"auto-alt-ref": "1", "lag-in-frames": "25"}), 48)


def test_invalid_data_between_packets(tmp_path):
    """https://github.com/dmlc/decord/issues/315: `av_read_frame failed`; here decord read on and moved all frames."""
    video = encode(tmp_path / "a.mkv", "libx264", **NO_B_FRAMES)
    content = bytearray(video.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(range(40))
    video.write_bytes(content)
    assert not probe(video).readable
    with pytest.raises(DataError, match=r"a\.mkv: can't be read \("):
        read_frames(video, 8, 64)


def test_header_that_counts_one_frame_more(tmp_path):
    """https://github.com/meta-pytorch/torchcodec/issues/1363: the last frame of an MSVD .avi does not exist."""
    video = encode(tmp_path / "a.avi", "mpeg4", **NO_B_FRAMES)
    content = bytearray(video.read_bytes())
    for tag, offset in ((b"avih", 24), (b"strh", 40)):
        at = content.index(tag) + offset
        assert int.from_bytes(content[at : at + 4], "little") == 48
        content[at : at + 4] = (49).to_bytes(4, "little")
    video.write_bytes(content)
    assert_positions(video, 48)


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "libvpx"), ("a.mkv", "mpeg4")])
def test_size_that_changes_within_a_stream(tmp_path, name, codec):
    """https://github.com/meta-pytorch/torchcodec/issues/312: frames of different sizes, as video calls record them."""
    video, number, target = tmp_path / name, 0, None
    with av.open(str(video), "w") as container:
        for size in ((64, 64), (96, 64), (64, 96)):
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height = size
            encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 25), 25
            encoder.bit_rate = 2_000_000
            packets = []
            for _ in range(12):
                frame = av.VideoFrame.from_ndarray(picture(number, *size), "rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                packets += encoder.encode(frame)
                number += 1
            packets += encoder.encode(None)
            if target is None:
                target = container.add_stream(codec, rate=25)
                target.width, target.height, target.pix_fmt = 64, 64, "yuv420p"
            for packet in packets:
                packet.stream, packet.time_base = target, Fraction(1, 25)
                container.mux(packet)
    assert_positions(video, 36)
    assert read_frames(video, 6, None).shape == (6, 64, 64, 3)
    assert convert_file(video, tmp_path / "copy.mp4", Convert(source="a", output="b", crf=1)) == ""
    assert_positions(tmp_path / "copy.mp4", 36)


@pytest.mark.parametrize("seconds", [Fraction(17, 25), Fraction(30, 25)])
def test_edit_list_that_leaves_out_whole_groups_of_pictures(tmp_path, seconds):
    """https://github.com/meta-pytorch/torchcodec/issues/1502: packets that an edit list hides are no missing frames."""
    whole, trimmed = encode(tmp_path / "whole.mp4", "libx264", bf="2"), tmp_path / "trimmed.mp4"
    with av.open(str(whole)) as source, av.open(str(trimmed), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts -= int(seconds / packet.time_base)  # negative times: the writer adds an edit list
                packet.dts -= int(seconds / packet.time_base)
                packet.stream = stream
                copy.mux(packet)
    hidden = int(seconds * 25)
    assert_positions(trimmed, 48 - hidden, first=hidden)


@pytest.mark.parametrize(("name", "codec"), [("a.3g2", "mpeg4"), ("a.mpg", "mpeg2video"), ("a.mpg", "mpeg1video")])
def test_formats_of_old_cameras_are_converted(tmp_path, name, codec):
    """https://github.com/ArrowLuo/CLIP4Clip/issues/30: compressed .3gp, .3g2 and .mpg files could not be read."""
    video = encode(tmp_path / name, codec, bf="0" if codec == "mpeg4" else "2")
    assert_positions(video, 48)
    assert convert_file(video, tmp_path / "copy.mp4", Convert(source="a", output="b", crf=1)) == ""
    assert_positions(tmp_path / "copy.mp4", 48)
