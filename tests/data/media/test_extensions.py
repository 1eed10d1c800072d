"""Every file extension of the list is found without its extension, listed by the commands, and read."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from alpro.data.annotations.media_files import MediaFolder
from alpro.data.media.extensions import VIDEO_EXTENSIONS, bare_name
from alpro.data.media.probe_table import probe_folder
from alpro.data.media.read import read_frames

FORMATS = {  # extension -> (container, codec, pixel format)
    ".gif": ("gif", "gif", "rgb8"),
    ".flv": ("flv", "flv", "yuv420p"),
    ".mpeg": ("mpeg", "mpeg2video", "yuv420p"),
    ".vob": ("vob", "mpeg2video", "yuv420p"),
    ".ts": ("mpegts", "mpeg2video", "yuv420p"),
    ".mp4": ("mp4", "mpeg4", "yuv420p"),
}


def make(path: Path, container: str, codec: str, pixels: str) -> None:
    """Write twelve frames with a bright square that moves to the right."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for number in range(12):
            image = np.zeros((48, 64, 3), np.uint8)
            image[16:32, 4 * number : 4 * number + 16] = 255
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)))
        out.mux(stream.encode())


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("upper", [False, True])
def test_a_video_of_any_format_is_found_listed_and_read(extension: str, upper: bool, tmp_path: Path) -> None:
    name = f"clip{extension.upper() if upper else extension}"
    make(tmp_path / name, *FORMATS[extension])
    assert extension in VIDEO_EXTENSIONS and bare_name(name) == "clip"
    assert MediaFolder(tmp_path, "video").path("clip") == tmp_path / name
    infos = probe_folder(tmp_path, workers=1)
    assert infos[name].readable and infos[name].frames == 12
    frames = read_frames(tmp_path / name, [0, 11], None)
    bright = [float((frame[..., 0] > 128).nonzero()[1].mean()) for frame in frames]
    assert bright[1] > bright[0] + 30
