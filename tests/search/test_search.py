"""Search gives the evaluation's results, encodes only new videos, and reports the ones it skips."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from alpro.cli.main import app
from alpro.data.annotations.records import Record
from alpro.errors import CheckpointError, DataError
from alpro.evaluation.clips import Preprocessing
from alpro.evaluation.retrieval import evaluate_retrieval
from alpro.search import index as indexing
from alpro.search.index import Video, VideoIndex, build
from alpro.search.page import page
from alpro.search.query import Searcher, show
from alpro.serving.service import Service


@pytest.fixture
def service(project: Path) -> Service:
    return Service.load(project / "models/msrvtt_ret", frames="uniform", max_text_tokens=12)


@pytest.fixture
def videos(records: list[Record], tmp_path: Path) -> Path:
    """Copies of the videos in two folders."""
    root = tmp_path / "videos"
    (root / "deeper").mkdir(parents=True)
    for n, record in enumerate(records):
        shutil.copyfile(record.path, (root / "deeper" if n % 2 else root) / record.path.name)
    (root / "notes.txt").write_text("no video")
    return root


def encoded(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    encode = service.model.encode_video
    monkeypatch.setattr(service.model, "encode_video", lambda pixels: (counts.append(len(pixels)), encode(pixels))[1])
    return counts


def test_search_gives_the_evaluations_results(
    service: Service,
    videos: Path,
    records: list[Record],
    tokenizer: Any,
    preprocessing: Preprocessing,
    tmp_path: Path,
) -> None:
    build(service, videos, tmp_path / "index")
    searcher = Searcher(service, VideoIndex.open(tmp_path / "index"))
    for rerank in (0, 3, 128):
        result = evaluate_retrieval(service.model, records, tokenizer, preprocessing)
        result = result if rerank == 128 else result.reranked(rerank)
        hits_at_5 = 0
        for text, owner in enumerate(result.owner):
            hits = searcher.search(result.texts[text], 5, rerank)
            assert [Path(hit.video).stem for hit in hits] == [video for video, _ in result.best_videos(text)]
            assert sum(hit.score is not None for hit in hits) == min(5, rerank)
            assert [hit.score for hit in hits[:rerank]] == pytest.approx(
                [result.scores[text, result.video_ids.index(Path(hit.video).stem)] for hit in hits[:rerank]], abs=1e-5
            )
            hits_at_5 += any(Path(hit.video).stem == result.video_ids[owner] for hit in hits)
        assert 100 * hits_at_5 / len(result.owner) == pytest.approx(result.metrics()["text2video"]["r5"])


def test_only_new_and_changed_videos_are_encoded(
    service: Service, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, index = encoded(service, monkeypatch), tmp_path / "index"
    assert build(service, videos, index).encoded == 11 == sum(counts)
    before = VideoIndex.open(index)
    counts.clear()
    assert build(service, videos, index) == indexing.IndexUpdate(11, 0, 0, [])
    (videos / "video0.mp4").rename(videos / "renamed.mp4")
    (videos / "video2.mp4").unlink()
    shutil.copyfile(videos / "video4.mp4", videos / "deeper/video1.mp4")
    changes = build(service, videos, index)
    assert (changes.videos, changes.encoded, changes.removed, sum(counts)) == (10, 0, 2, 0)
    shutil.copyfile(Path(__file__).parents[1] / "videos/small_webm.webm", videos / "new.webm")
    assert build(service, videos, index).encoded == 1 == sum(counts)
    now = VideoIndex.open(index)
    rows = {video.path: row for row, video in enumerate(now.videos)}
    assert set(rows) == {str(p.relative_to(videos)) for p in videos.rglob("*.*") if p.suffix in (".mp4", ".webm")}
    old = [video.path for video in before.videos].index("video0.mp4")
    assert np.array_equal(now.features[rows["renamed.mp4"]], before.features[old])
    assert np.array_equal(now.features[rows["deeper/video1.mp4"]], now.features[rows["video4.mp4"]])
    assert len(list((index / "tokens").rglob("*.npy"))) == len({video.sha256 for video in now.videos})


def test_killed_indexing_resumes(service: Service, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = encoded(service, monkeypatch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "write", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(service, videos, tmp_path / "index")
    assert sum(counts) == 11
    build(service, videos, tmp_path / "index")
    assert sum(counts) == 11 and len(VideoIndex.open(tmp_path / "index").videos) == 11


def test_unreadable_videos_are_skipped_and_reported(service: Service, videos: Path, tmp_path: Path) -> None:
    (videos / "broken.mp4").write_bytes(b"no video")
    changes = build(service, videos, tmp_path / "index")
    assert changes.videos == 11
    assert [str(videos / "broken.mp4") in line for line in changes.unreadable] == [True]
    for file in videos.rglob("*.mp4"):
        file.write_bytes(b"no video")
    with pytest.raises(DataError, match="none of its 12 videos"):
        build(service, videos, tmp_path / "other")


def test_index_of_another_model_is_refused_by_search_and_rebuilt(
    service: Service, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(service, videos, tmp_path / "index")
    with torch.no_grad():
        service.model.vision_proj.bias.add_(0.1)
    with pytest.raises(CheckpointError, match="another checkpoint"):
        Searcher(service, VideoIndex.open(tmp_path / "index"))
    old = VideoIndex.open(tmp_path / "index").features.copy()
    build(service, videos, tmp_path / "index")
    assert not np.allclose(VideoIndex.open(tmp_path / "index").features, old)


def test_equal_similarities_keep_row_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(10, 4)).astype(np.float32), 3, axis=0)
    rows = [Video(f"{n}.mp4", 1, 1, "0") for n in range(30)]
    indexing.write(tmp_path, rows, features, {"format": 1, "tokens": "x", "videos": "."})
    opened = VideoIndex.open(tmp_path)
    query = rng.normal(size=4).astype(np.float32)
    expected = np.argsort(-(features @ query), kind="stable")
    for count in (1, 5, 30, 50):
        assert opened.nearest(query, count)[0].tolist() == expected[:count].tolist()


def test_invalid_inputs_are_reported(service: Service, project: Path, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="alpro index"):
        VideoIndex.open(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        build(service, tmp_path / "none", tmp_path / "index")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="contains no videos"):
        build(service, tmp_path / "empty", tmp_path / "index")
    asks = Service.load(project / "models/msvd_qa", frames="uniform", max_text_tokens=12)
    with pytest.raises(CheckpointError, match="question-answering"):
        build(asks, videos, tmp_path / "index")
    build(service, videos, tmp_path / "index")
    searcher = Searcher(service, VideoIndex.open(tmp_path / "index"))
    with pytest.raises(DataError, match="query is empty"):
        searcher.search("  ")
    shutil.rmtree(tmp_path / "index/tokens")
    with pytest.raises(DataError, match="index again"):
        searcher.search("a red circle")
    (tmp_path / "index/gallery/videos.parquet").write_bytes(b"cut")
    with pytest.raises(DataError, match="damaged"):
        VideoIndex.open(tmp_path / "index")


def test_page_shows_frames_without_external_links(service: Service, videos: Path, tmp_path: Path) -> None:
    build(service, videos, tmp_path / "index")
    opened = VideoIndex.open(tmp_path / "index")
    hits = Searcher(service, opened).search("a red circle", 3)
    text = page("<a red circle>", hits, opened.metadata["videos"])
    assert text.count("data:image/jpeg;base64,") == 3 and "&lt;a red circle&gt;" in text
    assert "http" not in text and "<script" not in text
    assert all(hit.video in text for hit in hits)
    assert len(show(hits, videos).splitlines()) == 4
    assert [hit["video"] for hit in json.loads(show(hits, videos, as_json=True))] == [hit.video for hit in hits]


def test_commands_index_and_search(project: Path, videos: Path, tmp_path: Path) -> None:
    run, index, checkpoint = CliRunner(), str(tmp_path / "index"), str(project / "models/msrvtt_ret")
    indexed = run.invoke(app, ["index", str(videos), "--checkpoint", checkpoint, "--index", index])
    assert indexed.exit_code == 0 and "11 videos, 11 encoded now, 0 removed" in indexed.stdout
    query_command = ["search", "a red circle", "--checkpoint", checkpoint, "--index", index, "-k", "2"]
    printed = run.invoke(app, [*query_command, "--html", str(tmp_path / "page.html"), "--json"])
    hits = json.loads(printed.stdout)
    assert len(hits) == 2 and all((videos / hit["video"]).is_file() for hit in hits)
    assert hits[0]["video"] in (tmp_path / "page.html").read_text()


def test_bad_names_and_links_never_stop_the_other_videos(service: Service, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    shutil.copyfile(videos / "video0.mp4", tmp_path / "disk" / "linked.mp4")
    shutil.copyfile(videos / "video0.mp4", videos / "caf\udce9.mp4")
    (videos / "part1").symlink_to(tmp_path / "disk")
    (videos / "loop.mp4").symlink_to("loop.mp4")
    (videos / "gone.mp4").symlink_to("nowhere.mp4")
    (videos / "up").symlink_to("..")
    done = build(service, videos, tmp_path / "index")
    assert done.videos == 12 and "part1/linked.mp4" in {video.path for video in VideoIndex.open(tmp_path / "index").videos}
    left_out = {message.rpartition("/")[2].split(":")[0] for message in done.unreadable}
    assert left_out == {r"caf\xe9.mp4", "loop.mp4", "gone.mp4", "up"}
    with pytest.raises(DataError, match="the query has half of a character"):
        Searcher(service, VideoIndex.open(tmp_path / "index")).search("a red \ud83d")


def test_videos_of_a_folder_that_is_not_mounted_stay_in_the_index(
    service: Service, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (videos / "deeper").rename(tmp_path / "disk")
    (videos / "deeper").symlink_to(tmp_path / "disk")
    assert build(service, videos, tmp_path / "index").videos == 11
    before = VideoIndex.open(tmp_path / "index")
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    update = build(service, videos, tmp_path / "index")
    now = VideoIndex.open(tmp_path / "index")
    assert (update.videos, update.encoded, update.removed) == (11, 0, 0) and "broken link" in update.unreadable[0]
    assert now.videos == before.videos and np.array_equal(now.features, before.features)
    (tmp_path / "unmounted").rename(tmp_path / "disk")
    counts = encoded(service, monkeypatch)
    assert build(service, videos, tmp_path / "index").encoded == 0 == sum(counts)
    (videos / "deeper").unlink()
    assert build(service, videos, tmp_path / "index").removed == 5
