"""Indexes of folders: made once, kept for earlier models, never mixed with another model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from alpro.served.collections import Collections
from alpro.served.limits import RequestError
from alpro.served.stack import Served

from .conftest import CLIPS


@pytest.fixture
def folder(videos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(videos, tmp_path / "clips"))


def test_index_is_reused_and_only_new_clips_are_encoded(stack: Served, folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    first = Collections(stack.models, state=tmp_path / "state").index(folder, lambda done, total: seen.append((done, total)))
    assert first.update.encoded == len(CLIPS) and len(first.update.unreadable) == 1
    assert seen[-1] == (len(CLIPS) + 1, len(CLIPS) + 1)
    (folder / "one.mp4").rename(folder / "renamed.mp4")
    shutil.copy(folder / "two.mp4", folder / "copy.mp4")
    again = Collections(stack.models, state=tmp_path / "state").index(folder)
    assert again.update.encoded == 0 and {"renamed.mp4", "copy.mp4"} < {v.path for v in again.searcher.index.videos}


def test_similar_clips_leave_out_the_clip_itself(stack: Served) -> None:
    searcher = stack.collections.get(stack.videos.path).searcher
    hits = searcher.similar(CLIPS[0], 10)
    assert {hit.video for hit in hits} == set(CLIPS[1:])
    assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)
    assert all(hit.score is None for hit in hits)


def test_folder_that_is_not_indexed_or_gone_is_reported(stack: Served, folder: Path, tmp_path: Path) -> None:
    collections = Collections(stack.models, state=tmp_path / "state")
    with pytest.raises(RequestError, match="not indexed yet") as refused:
        collections.get(folder)
    assert refused.value.status == 409
    collections.index(folder)
    shutil.rmtree(folder)
    for use in (collections.get, collections.index):
        with pytest.raises(RequestError, match="does not exist") as refused:
            use(folder)
        assert refused.value.status == 404


def test_folder_without_readable_clips_is_reported(stack: Served, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="contains no videos") as refused:
        Collections(stack.models, state=tmp_path / "state").index(tmp_path / "empty")
    assert refused.value.status == 422
