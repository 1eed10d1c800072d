"""An evaluation of a set with faults is refused by naming all of them; nothing is put in place of a video."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from alpro.config import Params, parse
from alpro.data.records import Record
from alpro.errors import DataError
from alpro.evaluation.inference import evaluate_checkpoint
from alpro.evaluation.run import run_evaluation


@pytest.fixture
def faulty(params: Params, records: list[Record], tmp_path: Path) -> Params:
    """The set of `params` with videos of its own: one truncated, one that is no video, one missing."""
    shutil.copytree(records[0].path.parent, tmp_path / "videos")
    whole = records[1].path.read_bytes()
    (tmp_path / "videos" / "video1.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "videos" / "video2.mp4").write_text("<html>404</html>")
    (tmp_path / "videos" / "video4.mp4").unlink()
    raw = params.model_dump()
    raw["datasets"]["msrvtt_ret"]["videos"] = str(tmp_path / "videos")
    return parse(raw)


def test_all_unreadable_videos_are_named_and_nothing_is_recorded(faulty: Params, tmp_path: Path) -> None:
    checkpoint = faulty.evaluate["msrvtt_ret"].checkpoint
    for attempt in (
        lambda: run_evaluation(
            faulty, "msrvtt_ret", checkpoint=checkpoint, record=tmp_path / "record", state=tmp_path / "state"
        ),
        lambda: evaluate_checkpoint(faulty, "msrvtt_ret", checkpoint, output=tmp_path / "record", state=tmp_path / "state"),
    ):
        with pytest.raises(DataError) as raised:
            attempt()
        said = str(raised.value)
        assert "3 videos can't be read" in said
        assert not [name for name in ("video1.mp4", "video2.mp4", "video4.mp4: not found") if name not in said], said
        assert not (tmp_path / "record").exists()


def test_an_empty_caption_is_named_by_its_line(params: Params, tmp_path: Path) -> None:
    rows = [{"clip_name": "video0", "caption": "a red circle"}, {"clip_name": "video1", "caption": " "}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = params.model_dump()
    raw["datasets"]["msrvtt_ret"]["annotations"] = str(tmp_path)
    checkpoint = params.evaluate["msrvtt_ret"].checkpoint
    with pytest.raises(DataError, match=r"test\.jsonl: line 2: caption: empty"):
        run_evaluation(parse(raw), "msrvtt_ret", checkpoint=checkpoint, record=tmp_path / "record", state=tmp_path / "state")
