"""All eight orientations of a display matrix are shown as a player shows them, by both decoders and in converted copies."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from alpro.config import Convert
from alpro.data.copies.convert import convert_file
from alpro.data.media.probe import probe
from alpro.data.media.probe_table import probe_folder, table
from alpro.data.media.read import read_frames

WIDTH, HEIGHT = 96, 64
MATRICES = {  # (a, b, c, d): (x, y) is shown at (a x + c y, b x + d y); rotation and mirroring as reported
    (1, 0, 0, 1): (0, False),
    (0, 1, -1, 0): (90, False),
    (-1, 0, 0, -1): (180, False),
    (0, -1, 1, 0): (270, False),
    (-1, 0, 0, 1): (0, True),  # a selfie
    (1, 0, 0, -1): (180, True),
    (0, 1, 1, 0): (270, True),  # a selfie of a phone that is held upright
    (0, -1, -1, 0): (90, True),
}


def marked() -> np.ndarray:
    """Return a picture without any symmetry: a red box near the upper left corner, a green one in the middle of the top."""
    pixels = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    pixels[4:20, 4:28] = (230, 30, 30)
    pixels[4:12, 44:60] = (30, 230, 30)
    return pixels


def shown(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Move every pixel to the place where the matrix puts it."""
    a, b, c, d = matrix
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    result = np.empty((to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    result[to_y, to_x] = pixels
    return result


def with_matrix(path: Path, matrix: tuple[int, int, int, int], scale: int = 1 << 16) -> Path:
    """Write a video and replace the matrix in the header of its track."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(marked(), "rgb24")))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags; times, track, duration; reserved; layer, volume
    a, b, c, d = (scale * value for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("extension", ["mp4", "mov"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_every_orientation_is_shown_as_the_matrix_says(tmp_path, matrix, extension):
    video = with_matrix(tmp_path / f"a.{extension}", matrix)
    expected = shown(marked(), matrix).astype(int)
    info = probe(video)
    assert (info.readable, info.rotation, info.mirrored) == (True, *MATRICES[matrix])
    assert (info.height, info.width) == expected.shape[:2] and info.decoder == "decord"
    for decoder in ("decord", "pyav"):
        frames = read_frames(video, [0, 5], None, decoder=decoder, alone=True)
        assert frames.shape[1:] == expected.shape and np.abs(frames - expected).mean() < 6
    squares = [read_frames(video, 4, 32, decoder=decoder, alone=True) for decoder in ("decord", "pyav")]
    np.testing.assert_array_equal(*squares)

    copy = tmp_path / "copy.mp4"
    assert convert_file(video, copy, Convert(source="a", output="b", crf=1)) == ""
    info = probe(copy)
    assert (info.rotation, info.mirrored, info.height, info.width) == (0, False, *expected.shape[:2])
    assert np.abs(read_frames(copy, [0], None)[0] - expected).mean() < 6


@pytest.mark.parametrize("matrix", [(3, 0, 0, 3), (-2, 0, 0, 2)])
def test_the_scale_of_a_matrix_changes_nothing(tmp_path, matrix):
    video = with_matrix(tmp_path / "a.mp4", matrix)
    sign = tuple(int(np.sign(value)) for value in matrix)
    assert (probe(video).rotation, probe(video).mirrored) == MATRICES[sign]


def test_a_matrix_that_is_nearly_a_quarter_turn_is_taken_as_one_by_both_decoders(tmp_path):
    """decord would not turn it at all."""
    video = with_matrix(tmp_path / "a.mp4", (10, 65536, -65536, 10), scale=1)
    info = probe(video)
    assert (info.rotation, info.decoder) == (90, "pyav") and (info.width, info.height) == (HEIGHT, WIDTH)
    expected = shown(marked(), (0, 1, -1, 0)).astype(int)
    assert np.abs(read_frames(video, [0], None)[0] - expected).mean() < 6


def test_a_matrix_of_zeros_is_ignored(tmp_path):
    video = with_matrix(tmp_path / "a.mp4", (0, 0, 0, 0))
    assert (probe(video).rotation, probe(video).mirrored) == (0, False)
    assert np.abs(read_frames(video, [0], None)[0] - marked().astype(int)).mean() < 6


def test_the_table_names_mirrored_videos(tmp_path):
    with_matrix(tmp_path / "selfie.mp4", (-1, 0, 0, 1))
    assert "0 mirrored" in table(probe_folder(tmp_path, workers=1))
