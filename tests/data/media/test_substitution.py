"""No frame is ever replaced by another one: each frame that is read is the one that a strict decoder gives there."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from alpro.config import Convert
from alpro.data.copies.convert import convert_file
from alpro.data.media import strict
from alpro.data.media.probe import probe
from alpro.data.media.read import read_frames
from alpro.errors import DataError
from tests.data.clips import make_video

SIDE = 64


def picture(number: int, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """Return a picture from which its number can be read: the brightness of the left half."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = 5 * number + 10
    pixels[:, width // 2 :, 1] = np.arange(height)[:, None]
    return pixels


def numbers(frames: np.ndarray) -> list[int]:
    """Return the numbers of pictures that were read."""
    return [round((float(frame[:, : frame.shape[1] // 3].mean()) - 10) / 5) for frame in frames]


def encode(
    path: Path, codec: str, count: int = 48, start: int = 0, size: tuple[int, int] = (SIDE, SIDE), **options: str
) -> Path:
    """Write numbered pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "12", **options})
        stream.width, stream.height = size
        stream.pix_fmt, stream.thread_count, stream.bit_rate = "yuv420p", 1, 2_000_000
        for number in range(start, start + count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, *size), "rgb24")))
        container.mux(stream.encode())
    return path


def without(path: Path, dropped: set[int], name: str) -> Path:
    """Copy a video without some of its packets; the times of the others move up, as a repair tool does."""
    target = path.with_name(name)
    with av.open(str(path)) as source, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        kept = [packet for i, packet in enumerate(source.demux(video=0)) if packet.size and i not in dropped]
        for number, packet in enumerate(kept):
            packet.stream = stream
            packet.time_base = Fraction(1, 25)
            packet.pts = packet.dts = number
            copy.mux(packet)
    return target


NO_B_FRAMES = {"bf": "0"}


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("key", [12, 36])
@pytest.mark.parametrize(("extension", "codec"), [("mp4", "libx264"), ("mkv", "libx264")])
def test_a_video_that_lost_a_key_frame_is_refused(tmp_path, extension, codec, key, decoder):
    whole = encode(tmp_path / f"whole.{extension}", codec, **NO_B_FRAMES)
    assert numbers(read_frames(whole, range(48), 64)) == list(range(48))
    broken = without(whole, {key}, f"broken.{extension}")
    with pytest.raises(DataError, match=r"broken\.\w+: can't be read \(only \d+ of 47 frames decode\)"):
        read_frames(broken, 8, 64, decoder=decoder)
    info = probe(broken)
    assert not info.readable and "of 47 frames decode" in info.reason
    reason = convert_file(broken, tmp_path / "copy.mp4", Convert(source="a", output="b"))
    assert reason == info.reason and not (tmp_path / "copy.mp4").exists()


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.mkv", "mpeg2video"), ("a.mp4", "libx265")]
)
def test_a_damaged_frame_is_not_filled_in_from_its_neighbours(tmp_path, name, codec):
    whole = encode(tmp_path / name, codec)
    with av.open(str(whole)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    position, size = packets[13].pos, packets[13].size
    content = bytearray(whole.read_bytes())
    for at in range(position + size // 3, position + size):
        content[at] ^= 0xA5
    whole.write_bytes(content)
    info = probe(whole)
    assert not info.readable and info.reason
    with pytest.raises(DataError, match=name):
        read_frames(whole, 8, 64)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.ts", "libx264"),
        ("a.ts", "mpeg2video"),
        ("a.mpg", "mpeg2video"),
        ("a.avi", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.mts", "libx264"),
    ],
)
def test_frames_keep_their_positions_where_decord_would_misplace_them(tmp_path, name, codec):
    """decord returned other frames: up to 12 later in MPEG-TS, up to 30 earlier in an .avi with B-frames."""
    video = encode(tmp_path / name, codec, bf="2")
    assert probe(video).decoder == "pyav" and probe(video).frames == 48
    assert numbers(read_frames(video, range(48), 64)) == list(range(48))
    assert numbers(read_frames(video, [1, 17, 30, 46], 64)) == [1, 17, 30, 46]
    with pytest.raises(DataError, match="misplace"):
        read_frames(video, [1], 64, decoder="decord", alone=True)


@pytest.mark.parametrize("second", [(96, 64), (64, 64)])
def test_joined_streams_are_read_in_order(tmp_path, second):
    parts = [encode(tmp_path / "1.ts", "libx264", 12), encode(tmp_path / "2.ts", "libx264", 12, start=12, size=second)]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    info = probe(joined)
    assert (info.readable, info.frames, info.decoder) == (True, 24, "pyav")
    assert numbers(read_frames(joined, range(24), 64)) == list(range(24))
    assert read_frames(joined, 4, None).shape == (4, 64, 64, 3)  # all frames get the size of the first
    assert convert_file(joined, tmp_path / "copy.mp4", Convert(source="a", output="b")) == ""
    assert numbers(read_frames(tmp_path / "copy.mp4", range(24), 64)) == list(range(24))


def test_joined_streams_of_which_the_second_lost_its_key_frame_are_refused(tmp_path):
    """The times of the lost frames exist twice, so that they can't be told by their times."""
    first = encode(tmp_path / "1.ts", "libx264", 24, **NO_B_FRAMES)
    second = encode(tmp_path / "2.ts", "libx264", 24, start=24, **NO_B_FRAMES)
    damaged = without(second, {12}, "3.ts")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + damaged.read_bytes())
    info = probe(joined)
    assert not info.readable and "frames decode" in info.reason


def test_a_recovery_point_that_is_no_key_frame_moves_no_frame(tmp_path):
    video = encode(tmp_path / "a.mp4", "libx264", **{"intra-refresh": "1", "g": "30"})
    assert numbers(read_frames(video, [1, 31, 40, 47], 64)) == [1, 31, 40, 47]


@pytest.mark.parametrize(("one", "other"), [(0, 12), (12, 24), (5, 36)])
def test_a_wrong_index_moves_no_frame(tmp_path, one, other):
    whole = encode(tmp_path / "whole.avi", "mpeg4").read_bytes()
    first = whole.index(b"idx1") + 8  # entries of 16 bytes
    entries = [whole[at : at + 16] for at in range(first, first + 48 * 16, 16)]
    entries[one], entries[other] = entries[other], entries[one]
    path = tmp_path / "wrong.avi"
    path.write_bytes(whole[:first] + b"".join(entries) + whole[first + 48 * 16 :])
    for indices in (range(48), [other], [one, other], [3, 30, 47]):
        try:
            assert numbers(read_frames(path, indices, 64)) == list(indices)
        except DataError as error:
            assert "decode" in str(error)


def test_decord_stays_the_decoder_of_ordinary_files(tmp_path):
    for name, codec in (
        ("a.mp4", "libx264"),
        ("b.avi", "mpeg4"),
        ("c.mkv", "libx264"),
        ("d.webm", "libvpx-vp9"),
        ("e.flv", "flv"),
    ):
        video = encode(tmp_path / name, codec, **({"bf": "0"} if name.endswith("avi") else {}))
        assert probe(video).decoder == "decord"
        assert numbers(read_frames(video, [2, 20, 45], 64, decoder="decord", alone=True)) == [2, 20, 45]


def test_decord_does_not_repeat_a_frame_that_it_cannot_decode(tmp_path):
    """Even if the check had passed the file: decord is opened so that it raises instead of repeating a neighbour."""
    from alpro.data.media import decoders

    broken = without(encode(tmp_path / "whole.mp4", "libx264", **NO_B_FRAMES), {36}, "broken.mp4")
    with pytest.raises(DataError, match="duplicate frames"):
        decoders.read_with_decord(broken, strict.Frames(47, by_decord=True), [40, 46], 64)


def test_a_long_video_is_checked_only_where_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(strict, "LONG", 20)
    whole = encode(tmp_path / "whole.mp4", "libx264", **NO_B_FRAMES)
    broken = without(whole, {24}, "broken.mp4")
    assert numbers(read_frames(broken, [3, 40], 64)) == [3, 39 + 2]  # after the missing packet, all are one later
    with pytest.raises(DataError, match="don't all decode"):
        read_frames(broken, [3, 30], 64)
    assert not probe(broken).readable


def test_the_check_is_repeated_if_the_file_changes(tmp_path):
    good = make_video(tmp_path / "a.mp4", 24, codec="libx264")
    read_frames(good, 4, 32)
    content = good.read_bytes()
    good.write_bytes(content[:200] + bytes(len(content) - 200))
    with pytest.raises(DataError):
        read_frames(good, 4, 32)


def test_two_fields_of_a_frame_are_one_frame():
    """Camcorders that record interlaced H.264 store each field in a packet of its own; FFmpeg has no encoder for that."""
    decoding = strict._Decoding("mpegts", "h264", packets=[0, 1, 2, 3, 4, None], keys=[0], frames=[0, 2, 4])
    with pytest.raises(DataError, match="only 3 of 6 frames decode"):
        strict._count(decoding)
    decoding.interlaced = {0, 2, 4}
    assert strict._count(decoding) == 3
    decoding.frames = [0, 4]
    with pytest.raises(DataError, match="only 2 of 6 frames decode"):
        strict._count(decoding)
