"""Container checks: truncated files and hidden frames are detected without decoding."""

import numpy as np
import pytest

from alpro.data.media.containers import hides_frames, missing_bytes
from alpro.data.media.probe import probe
from alpro.data.media.read import read_frames
from alpro.errors import DataError
from tests.data.clips import make_video


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
def test_truncated_file_is_refused_although_it_opens(tmp_path, name, codec, options):
    whole = make_video(tmp_path / name, 60, codec=codec, options=options)
    assert probe(whole).readable and probe(whole).frames == 60 and missing_bytes(whole) == 0
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    info = probe(cut)
    assert not info.readable and "was cut" in info.reason and missing_bytes(cut) > 0
    with pytest.raises(DataError, match=f"cut_{name}"):
        read_frames(cut, 4, 32)


def test_avi_without_its_index_is_read(tmp_path):
    whole = make_video(tmp_path / "a.avi", 60)
    short = tmp_path / "short.avi"
    short.write_bytes(whole.read_bytes()[:-20])
    assert probe(short).readable
    np.testing.assert_array_equal(read_frames(short, 4, 32), read_frames(whole, 4, 32))


def trimmed(whole, start_s=0, end_s=None):
    """Return a copy whose edit list selects only a part."""
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


def test_frames_hidden_by_an_edit_list_are_not_read(tmp_path):
    """Like a video trimmed on a phone: the file has 60 frames, 12 per second, and players show only some."""
    whole = make_video(tmp_path / "a.mp4", 60, codec="libx264")
    every = read_frames(whole, range(60), 32)
    assert not hides_frames(whole) and probe(whole).decoder == "decord"
    for start, end, shown in ((1, None, range(12, 60)), (0, 3, range(36)), (2, 4, range(24, 48))):
        part = trimmed(whole, start, end)
        info = probe(part)
        assert hides_frames(part) and (info.readable, info.frames, info.decoder) == (True, len(shown), "pyav")
        np.testing.assert_array_equal(read_frames(part, range(info.frames), 32), every[list(shown)])
