"""An evaluation of a dataset with unreadable videos is refused with a list of them; no video is substituted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from alpro.config import Params, parse
from alpro.data.annotations.records import Record
from alpro.data.batches import ordered_clips
from alpro.data.batches.unreadable import refuse_unreadable
from alpro.data.media.index import build_index, probe_cache_path
from alpro.errors import DataError
from alpro.evaluation import run
from alpro.evaluation.official import evaluate_checkpoint
from alpro.evaluation.run import run_evaluation


@pytest.fixture
def faulty(params: Params, records: list[Record], tmp_path: Path) -> Params:
    """The dataset of `params` with one truncated video, one file that is no video, and one missing video."""
    shutil.copytree(records[0].path.parent, tmp_path / "videos")
    whole = records[1].path.read_bytes()
    (tmp_path / "videos" / "video1.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "videos" / "video2.mp4").write_text("<html>404</html>")
    (tmp_path / "videos" / "video4.mp4").unlink()
    raw = params.model_dump()
    raw["datasets"]["msrvtt_ret"]["videos"] = str(tmp_path / "videos")
    return parse(raw)


def test_unreadable_videos_are_all_reported_and_nothing_is_recorded(faulty: Params, tmp_path: Path) -> None:
    checkpoint = faulty.evaluate["msrvtt_ret"].checkpoint
    for attempt in (
        lambda: run_evaluation(
            faulty, "msrvtt_ret", checkpoint=checkpoint, record=tmp_path / "record", state=tmp_path / "state"
        ),
        lambda: evaluate_checkpoint(faulty, "msrvtt_ret", checkpoint, output=tmp_path / "record", state=tmp_path / "state"),
    ):
        with pytest.raises(DataError) as raised:
            attempt()
        message = str(raised.value)
        assert "3 videos can't be read" in message
        assert not [name for name in ("video1.mp4", "video2.mp4", "video4.mp4: not found") if name not in message], message
        assert not (tmp_path / "record").exists()


def test_known_unreadable_files_are_reported_before_reading(
    faulty: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "videos"
    seen = [videos / f"video{number}.mp4" for number in range(8)]  # the others were not probed
    build_index(seen, tmp_path / "index.parquet", cache=probe_cache_path(videos, tmp_path / "state"))
    (videos / "video9.mp4").write_text("")
    read = []
    real = ordered_clips.load_video_frames
    monkeypatch.setattr(ordered_clips, "load_video_frames", lambda record, *rest: read.append(record.id) or real(record, *rest))
    monkeypatch.setattr(run, "load_bundle", lambda *_: pytest.fail("the evaluation has started"))
    checkpoint = faulty.evaluate["msrvtt_ret"].checkpoint
    with pytest.raises(DataError, match=r"(?s)4 videos can't be read.*video1\.mp4.*video2\.mp4.*video4\.mp4.*video9\.mp4"):
        run_evaluation(faulty, "msrvtt_ret", checkpoint=checkpoint, record=tmp_path / "record", state=tmp_path / "state")
    assert read == ["video1", "video2", "video4", "video8", "video9", "video10"], "of what was seen, only what failed"


def test_readable_dataset_is_not_read_before_the_evaluation(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered_clips, "load_video_frames", lambda *_: pytest.fail("it was read"))
    cache = probe_cache_path(records[0].path.parent, tmp_path)
    refuse_unreadable(records, 4, "uniform", cache)
    build_index([record.path for record in records], tmp_path / "index.parquet", cache=cache)
    refuse_unreadable(records, 4, "uniform", cache)


def test_empty_caption_is_reported_with_its_line(params: Params, tmp_path: Path) -> None:
    rows = [{"clip_name": "video0", "caption": "a red circle"}, {"clip_name": "video1", "caption": " "}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = params.model_dump()
    raw["datasets"]["msrvtt_ret"]["annotations"] = str(tmp_path)
    checkpoint = params.evaluate["msrvtt_ret"].checkpoint
    with pytest.raises(DataError, match=r"test\.jsonl: line 2: caption: empty"):
        run_evaluation(parse(raw), "msrvtt_ret", checkpoint=checkpoint, record=tmp_path / "record", state=tmp_path / "state")
