"""Only videos below the chosen folder can be named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from alpro.served.folder import VideoRoot
from alpro.served.limits import RequestError

from .conftest import CLIPS


@pytest.fixture
def root(videos: Path, tmp_path: Path) -> VideoRoot:
    folder = Path(shutil.copytree(videos, tmp_path / "chosen"))
    shutil.copy(videos / "one.mp4", tmp_path / "secret.mp4")
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (tmp_path / "chosen-too").mkdir()
    return VideoRoot(folder)


def test_videos_and_folders_are_listed(root: VideoRoot) -> None:
    assert set(CLIPS) < set(root.videos()) and root.videos("sub") == ["sub/three.mp4"]
    assert root.folders() == [".", "sub"]
    assert root.video("sub/three.mp4") == root.path / "sub/three.mp4"
    assert root.video("sub/../one.mp4") == root.path / "one.mp4"


@pytest.mark.parametrize("name", ["../secret.mp4", "link.mp4", "sub/../../secret.mp4", "/etc/passwd", "../nothing-there.mp4"])
def test_video_outside_is_refused_whether_it_exists_or_not(root: VideoRoot, name: str) -> None:
    with pytest.raises(RequestError, match="outside of the chosen folder") as refused:
        root.video(name)
    assert refused.value.status == 403


@pytest.mark.parametrize("name", ["..", "/", "../chosen-too", "/etc"])
def test_folder_outside_is_refused(root: VideoRoot, name: str) -> None:
    with pytest.raises(RequestError) as refused:
        root.folder(name)
    assert refused.value.status == 403


@pytest.mark.parametrize(("name", "status"), [("none.mp4", 404), ("sub", 404), ("a\0b.mp4", 422), ("x" * 5000, 422)])
def test_unusable_name_is_refused(root: VideoRoot, name: str, status: int) -> None:
    with pytest.raises(RequestError) as refused:
        root.video(name)
    assert refused.value.status == status and len(str(refused.value)) < 300


def test_folder_that_disappears_is_reported(root: VideoRoot) -> None:
    shutil.rmtree(root.path)
    for use in (root.check, root.videos):
        with pytest.raises(RequestError, match="does not exist") as refused:
            use()
        assert refused.value.status == 404
    assert root.folders() == []
