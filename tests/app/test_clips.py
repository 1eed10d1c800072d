"""Links to clips name nothing of the disk, and clips that no browser plays are converted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from alpro.app.clips import POSTER, ROUTE, ClipLinks, is_playable

VIDEOS = Path(__file__).parents[1] / "videos"


@pytest.fixture
def links(tmp_path: Path) -> ClipLinks:
    return ClipLinks(tmp_path / "copies")


@pytest.fixture
def client(links: ClipLinks) -> TestClient:
    app = Starlette()
    app.add_route(ROUTE, links.respond, ["GET"])
    app.add_route(POSTER, links.poster, ["GET"])
    return TestClient(app)


def test_clip_is_sent_whole_and_in_parts(links: ClipLinks, client: TestClient) -> None:
    path = VIDEOS / "made_tall_90x400_from_nasa.mp4"
    link = links.link(path)
    assert is_playable(path) and path.name not in link and link == links.link(path)
    whole = client.get(link)
    assert whole.content == path.read_bytes() and whole.headers["content-type"] == "video/mp4"
    part = client.get(link, headers={"range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == path.read_bytes()[10:20]


@pytest.mark.parametrize("name", ["torchcodec_h265_video.mp4", "decord_video_90.mov"])
def test_clip_that_browsers_do_not_play_is_converted_once(links: ClipLinks, client: TestClient, name: str) -> None:
    assert not is_playable(VIDEOS / name)
    link = links.link(VIDEOS / name)
    content = client.get(link).content
    (copy,) = links.copies.glob("*.mp4")
    made = copy.stat().st_mtime_ns
    assert is_playable(copy) and content == copy.read_bytes()
    assert client.get(link).status_code == 200 and copy.stat().st_mtime_ns == made


def test_poster_is_the_middle_frame(links: ClipLinks, client: TestClient) -> None:
    poster = client.get(links.link(VIDEOS / "made_tall_90x400_from_nasa.mp4") + "/poster")
    assert poster.headers["content-type"] == "image/jpeg" and poster.content[:2] == b"\xff\xd8"


def test_other_links_and_broken_or_deleted_clips_are_refused(links: ClipLinks, client: TestClient, tmp_path: Path) -> None:
    other = ClipLinks(tmp_path / "other").link(VIDEOS / "small_webm.webm")
    for link in (other, "/clips/0", "/clips/..%2F..%2Fetc%2Fpasswd", f"{other}/poster"):
        assert client.get(link).status_code == 404
    broken = links.link(VIDEOS / "made_text_not_a_video.mp4")
    answer = client.get(broken)
    assert answer.status_code == 415 and str(VIDEOS) not in answer.text and client.get(f"{broken}/poster").status_code == 404
    path = Path(shutil.copy(VIDEOS / "small_webm.webm", tmp_path))
    link = links.link(path)
    path.unlink()
    assert client.get(link).status_code == 404
