"""Texts and uploads beyond the limits are refused with a sentence and the right status, before anything is decoded."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from alpro.served.limits import Limits, RequestError
from alpro.served.uploads import Uploads
from tests.evaluation.conftest import write_video

REAL = Path(__file__).parents[1] / "videos"


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("", "empty_text", "The question is empty"),
        (" \n\t", "empty_text", "The question is empty"),
        (None, "empty_text", "The question is empty"),
        ("x" * 10_000, "text_too_long", "has 10,000 characters; at most 1,000"),
        ("a\ud83d", "invalid_text", "half of a character"),
        ("a\0b", "invalid_text", "NUL"),
    ],
)
def test_unusable_text_is_refused(text: object, code: str, part: str) -> None:
    with pytest.raises(RequestError, match=part) as refused:
        Limits().text(text, "question")
    assert (refused.value.status, refused.value.code) == (422, code)


def test_number_of_texts_is_limited() -> None:
    assert Limits().many_texts([" a ", "b"], "text") == ["a", "b"]
    for texts, code in (([], "empty_text"), (["x"] * 65, "too_many_texts")):
        with pytest.raises(RequestError) as refused:
            Limits().many_texts(texts, "text")
        assert refused.value.code == code


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_video(tmp_path / "clip.mp4", seed=0, frames=80)  # 10 seconds of 32 x 32 pixels
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [
        (Limits(), None, None),
        (Limits(upload_bytes=1000), 413, "upload_too_large"),
        (Limits(seconds=5), 413, "clip_too_long"),
        (Limits(pixels=1000), 413, "frame_too_large"),
    ],
)
def test_upload_is_limited_in_bytes_seconds_and_pixels(
    clip: Path, limits: Limits, status: int | None, code: str | None
) -> None:
    uploads = Uploads(limits)
    if status is None:
        with uploads.received(io.BytesIO(clip.read_bytes()), "holiday.mp4") as path:
            assert path.is_file() and path.name != "holiday.mp4"
    else:
        with pytest.raises(RequestError) as refused:
            uploads.add(io.BytesIO(clip.read_bytes()), "holiday.mp4")
        assert (refused.value.status, refused.value.code) == (status, code)
    assert list(uploads.path.iterdir()) == []  # nothing is left
    uploads.close()
    assert not uploads.path.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n" * 200,
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"#EXTM3U\n\x00\x01\xff#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\x01<?xml version='1.0'?><MPD><BaseURL>file:///etc/</BaseURL></MPD>",
        b"\x00\x01\x02\x03" * 500,
    ],
)
def test_upload_that_is_no_video_or_names_other_files_is_refused(content: bytes) -> None:
    uploads = Uploads(Limits())
    with pytest.raises(RequestError, match=r"clip\.mp4 is not a video") as refused:
        uploads.add(io.BytesIO(content), "clip.mp4")
    assert refused.value.status == 415 and list(uploads.path.iterdir()) == []


def test_upload_without_a_video_extension_is_refused() -> None:
    with pytest.raises(RequestError, match="extension") as refused:
        Uploads(Limits()).add(io.BytesIO(b"x"), "../../etc/passwd")
    assert refused.value.status == 415


def test_real_clips_are_accepted() -> None:
    uploads = Uploads(Limits())
    for name in ("small_webm.webm", "decord_video_90.mov", "torchcodec_av1_video.mkv", "made_two_streams_from_nasa.mp4"):
        assert uploads.add(io.BytesIO((REAL / name).read_bytes()), name).is_file()


def test_unused_uploads_are_removed(clip: Path) -> None:
    uploads = Uploads(Limits())
    path = uploads.add(io.BytesIO(clip.read_bytes()), "clip.mp4")
    uploads.remove_unused(older_than_s=3600)
    assert uploads.has(path)
    uploads.remove_unused(older_than_s=-1)
    assert not uploads.has(path) and not path.exists()
    uploads.remove(clip)  # not an upload
    assert clip.exists()
