"""Sets are fetched from their URLs or from the user's files into the official tree; failures say what to do."""

import hashlib
import io
import json
import tarfile
import zipfile

import pytest

from alpro.config import Corpus, load
from alpro.data.annotations.read import read_corpus
from alpro.data.sources import fetch, fetch_media, registry
from alpro.data.sources.media import image_name
from alpro.data.sources.registry import Source
from alpro.data.validation.tables import read_tables
from alpro.errors import DataError
from tests.data.hostile import Page, hostile


def zip_of(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def tar_of(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return stream.getvalue()


TRAIN = zip_of({"TrainValVideo/video0.mp4": b"zero", "TrainValVideo/video1.mp4": b"one"})
TEST = zip_of({"TestVideo/video2.mp4": b"two"})
MIRROR = zip_of({"MSRVTT/videos/all/video0.mp4": b"zero", "MSRVTT/annotation/MSR_VTT.json": b"{}"})
CLIPS = tar_of({"YouTubeClips/a_1_5.avi": b"clip"})
DATA = zip_of(
    {"data/msrvtt_ret/txt/test.jsonl": b"{}\n", "data/msvd_qa/txt/val.jsonl": b"{}\n", "data/unigrams.txt": b"dog 3\n"}
)


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def sets(monkeypatch):
    """The real registry with the checksums of these small files; `sets(address)` points every URL to a test server."""

    real = registry.registry()

    def at(address):
        raw = {name: entry.model_dump() for name, entry in real.items()}
        sums = {"train_val_videos.zip": md5(TRAIN), "test_videos.zip": md5(TEST), "YouTubeClips.tar": md5(CLIPS)}
        for entry in raw.values():
            for files in entry["alternatives"]:
                for file in files:
                    file["urls"] = [f"{address}/{file['name']}"] if file["urls"] else []
                    file["md5"] = sums.get(file["name"])
        table = {name: Source.model_validate(entry) for name, entry in raw.items()}
        monkeypatch.setattr(registry, "registry", lambda: table)

    at("http://127.0.0.1:9")
    return at


def tree(root):
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not {".fetch", "fetched"} & set(path.parts)
    )


def test_every_input_of_recipe_official_is_in_a_set():
    params = load("recipes/official.yaml")
    needed = {d.videos for d in params.datasets.values()} | {d.annotations for d in params.datasets.values()}
    table = registry.registry()
    provided = {entry.videos.folder for entry in table.values() if entry.videos}
    assert needed - provided == {f"data/{name}/txt" for name in params.datasets}  # annotations: data.zip holds data/*
    assert {table["webvid2m"].media.folder, table["cc3m"].media.folder} == {c.root for c in params.corpora.values()}
    assert table["annotations"].files[0].members == ("data/*",)


def test_archive_is_fetched_verified_unpacked_and_recorded(tmp_path, sets):
    page = Page(CLIPS, cut=[100])
    with hostile({"/YouTubeClips.tar": page}) as address:
        sets(address)
        lines = []
        assert fetch("msvd_qa", tmp_path, say=lines.append) == ["data/msvd_qa/videos"]
        assert tree(tmp_path) == ["data/msvd_qa/videos/a_1_5.avi"]
        assert "verified by its published checksum" in "\n".join(lines)
        assert "1 of 1,970 videos" in "\n".join(lines)
        record = json.loads((tmp_path / "data/fetched/msvd_qa.json").read_text())["YouTubeClips.tar"]
        assert record["sha256"] == hashlib.sha256(CLIPS).hexdigest()
        fetch("msvd_qa", tmp_path, say=lines.append)
        assert "already fetched" in "\n".join(lines) and len(page.seen) == 2  # cut once, resumed once
        (tmp_path / "data/msvd_qa/videos/a_1_5.avi").unlink()
        fetch("msvd_qa", tmp_path, say=lines.append)
    assert tree(tmp_path) == ["data/msvd_qa/videos/a_1_5.avi"]


def test_wrong_bytes_leave_the_tree_unchanged_with_a_remedy(tmp_path, sets):
    with hostile({"/YouTubeClips.tar": Page(CLIPS + b"x")}) as address:
        sets(address)
        with pytest.raises(DataError, match=r"(?s)wrong content: its md5 is .* download them from .* --from FILE_OR_FOLDER"):
            fetch("msvd_qa", tmp_path, say=lambda _: None)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("name", ["../../outside.avi", "YouTubeClips/../../../outside.avi"])
def test_unsafe_archive_leaves_the_tree_unchanged(tmp_path, sets, name):
    sets("http://127.0.0.1:9")
    (tmp_path / "clips.tar").write_bytes(tar_of({"YouTubeClips/a.avi": b"clip", name: b"bad"}))
    with pytest.raises(DataError, match="leads out of its folder"):
        fetch("msvd_qa", tmp_path, [tmp_path / "clips.tar"], say=lambda _: None)
    assert tree(tmp_path) == ["clips.tar"]


def test_without_a_published_checksum_later_fetches_are_checked_against_the_first(tmp_path, sets):
    pages = {"/data.zip": Page(DATA)}
    with hostile(pages) as address:
        sets(address)
        lines = []
        folders = fetch("annotations", tmp_path, say=lines.append)
        assert folders == ["data/msrvtt_ret/txt", "data/msvd_qa/txt", "data/unigrams.txt"]
        assert "not verified, as no checksum is published; its sha256 is recorded in data/fetched/annotations.json" in lines[-1]
        (tmp_path / "data/unigrams.txt").unlink()
        pages["/data.zip"].content = DATA + b"other"
        with pytest.raises(DataError, match="its sha256 is"):
            fetch("annotations", tmp_path, say=lines.append)
        pages["/data.zip"].content = DATA
        fetch("annotations", tmp_path, say=lines.append)
    assert "verified by the sha256 recorded" in lines[-1]
    assert tree(tmp_path) == ["data/msrvtt_ret/txt/test.jsonl", "data/msvd_qa/txt/val.jsonl", "data/unigrams.txt"]


@pytest.mark.parametrize("status", [403, 404])
def test_refused_file_can_be_supplied_by_the_user(tmp_path, sets, status):
    with hostile({"/data.zip": Page(status=status)}) as address:
        sets(address)
        with pytest.raises(DataError, match=f"HTTP {status}(?s:.*)alpro data fetch annotations --from"):
            fetch("annotations", tmp_path, say=lambda _: None)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/data.zip").write_bytes(DATA)
        fetch("annotations", tmp_path / "tree", [tmp_path / "mine"], say=lambda _: None)
    assert "data/unigrams.txt" in tree(tmp_path / "tree")


def test_mirror_is_used_if_the_first_alternative_has_no_address(tmp_path, sets):
    with hostile({"/MSRVTT.zip": Page(MIRROR)}) as address:
        sets(address)
        fetch("msrvtt_ret", tmp_path, say=lambda _: None)
    assert tree(tmp_path) == ["data/msrvtt_ret/videos/video0.mp4"]


def test_missing_second_file_is_requested(tmp_path, sets):
    (tmp_path / "train_val_videos.zip").write_bytes(TRAIN)
    with pytest.raises(DataError, match=r"test_videos.zip: has no address for automatic download") as caught:
        fetch("msrvtt_ret", tmp_path / "tree", [tmp_path / "train_val_videos.zip"], say=lambda _: None)
    assert "train_val" not in str(caught.value)
    (tmp_path / "test_videos.zip").write_bytes(TEST)
    fetch("msrvtt_ret", tmp_path / "tree", [tmp_path], say=lambda _: None)
    assert tree(tmp_path / "tree") == [f"data/msrvtt_ret/videos/video{i}.mp4" for i in range(3)]


def test_user_file_with_another_checksum_is_refused(tmp_path, sets):
    (tmp_path / "test_videos.zip").write_bytes(TRAIN)
    with pytest.raises(DataError, match="not the published file: its md5 is"):
        fetch("msrvtt_ret", tmp_path, [tmp_path / "test_videos.zip"], say=lambda _: None)


def test_folder_of_videos_is_copied_not_moved(tmp_path, sets):
    (tmp_path / "mine/deep").mkdir(parents=True)
    for name in ("a.MOV", "deep/b.mp4", "c.", "notes.txt"):
        (tmp_path / "mine" / name).write_bytes(name.encode())
    fetch("didemo_ret", tmp_path / "tree", [tmp_path / "mine"], say=lambda _: None)
    assert tree(tmp_path / "tree") == [f"data/didemo_ret/videos/{name}" for name in ("a.MOV", "b.mp4", "c.")]
    assert (tmp_path / "mine/a.MOV").exists()


def test_set_is_copied_from_an_official_tree(tmp_path, sets):
    for name in ("data/msvd_qa/videos/a.avi", "data/msrvtt_ret/videos/video0.mp4"):
        (tmp_path / "ALPRO" / name).parent.mkdir(parents=True)
        (tmp_path / "ALPRO" / name).write_bytes(b"x")
    fetch("msvd_qa", tmp_path / "tree", [tmp_path / "ALPRO"], say=lambda _: None)
    assert tree(tmp_path / "tree") == ["data/msvd_qa/videos/a.avi"]


@pytest.mark.parametrize(
    "leads_to", ["../msrvtt_ret/videos", "data/msrvtt_ret/videos"]
)  # a dangling link from the released README's command
def test_annotations_are_copied_from_an_official_tree_without_videos(tmp_path, sets, leads_to):
    annotations = ["data/cc3m/txt/cc3m.json", "data/msrvtt_qa/txt/train.jsonl", "data/msrvtt_ret/txt/test.jsonl"]
    for name in (
        *annotations,
        "data/cc3m/images/training/1",
        "data/msrvtt_ret/videos/video0.mp4",
        "data/msrvtt_ret/videos/video0.json",
        "data/webvid2m/000001/2.mp4",
    ):
        (tmp_path / "ALPRO" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ALPRO" / name).write_bytes(b"x")
    (tmp_path / "ALPRO/data/msrvtt_qa/videos").symlink_to(leads_to)
    fetch("annotations", tmp_path / "tree", [tmp_path / "ALPRO"], say=lambda _: None)
    assert tree(tmp_path / "tree") == annotations


def test_official_link_is_accepted_and_a_dangling_one_reported(tmp_path, sets):
    (tmp_path / "data/msrvtt_ret/videos").mkdir(parents=True)
    (tmp_path / "data/msrvtt_qa").mkdir()
    link = tmp_path / "data/msrvtt_qa/videos"
    link.symlink_to("../msrvtt_ret/videos")
    lines = []
    fetch("msrvtt_qa", tmp_path, say=lines.append)
    assert "a link to ../msrvtt_ret/videos; optional" in "\n".join(lines)
    link.unlink()
    link.symlink_to("data/msrvtt_ret/videos")  # the link that the released README's command makes
    with pytest.raises(DataError, match=r"msrvtt_qa/videos: broken link \(to data/msrvtt_ret/videos\)"):
        fetch("msrvtt_qa", tmp_path, say=lines.append)


def test_user_file_is_never_overwritten(tmp_path, sets):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/unigrams.txt").write_text("mine\n")
    (tmp_path / "data.zip").write_bytes(DATA)
    with pytest.raises(DataError, match=r"data/unigrams.txt: already exists with different content"):
        fetch("annotations", tmp_path, [tmp_path / "data.zip"], say=lambda _: None)
    assert tree(tmp_path / "data") == ["unigrams.txt"]
    assert (tmp_path / "data/unigrams.txt").read_text() == "mine\n"


def test_set_is_written_through_a_link(tmp_path, sets):
    (tmp_path / "big").mkdir()
    (tmp_path / "tree/data/msvd_qa").mkdir(parents=True)
    (tmp_path / "tree/data/msvd_qa/videos").symlink_to(tmp_path / "big")
    (tmp_path / "YouTubeClips.tar").write_bytes(CLIPS)
    fetch("msvd_qa", tmp_path / "tree", [tmp_path / "YouTubeClips.tar"], say=lambda _: None)
    assert tree(tmp_path / "big") == ["a_1_5.avi"]


def test_unknown_set_suggests_the_nearest_name(tmp_path):
    with pytest.raises(DataError, match="did you mean 'msvd_qa'"):
        fetch("msvd", tmp_path)


# --- sets whose tables list files by URL ---------------------------------------------------------------------


def test_videos_listed_by_url_are_fetched_once_and_unavailable_ones_listed(tmp_path, sets):
    pages = {"/1.mp4": Page(b"one"), "/2.mp4": Page(status=404), "/3.mp4": Page(b"<html>sorry</html>")}
    with hostile(pages) as address:
        for split in ("train", "val"):
            rows = [f"{i},{address}/{i}.mp4,PT1S,pages{split},a caption" for i in (1, 2, 3)]
            table = tmp_path / f"results_2M_{split}.csv"
            table.write_text("\n".join(["videoid,contentUrl,duration,page_dir,name", *rows]) + "\n")
        fetch("webvid2m", tmp_path / "tree", [tmp_path], say=lambda _: None)
        lines = []
        for _ in range(2):
            fetch_media("webvid2m", tmp_path / "tree", workers=2, say=lines.append)
    assert "2 files are in data/webvid2m/videos, 2 of them new; 4 are unavailable" in lines[0]
    assert "2 files are in data/webvid2m/videos, 0 of them new; 4 are unavailable" in lines[2]
    assert len(pages["/2.mp4"].seen) == 2  # once per table, and not in the second run
    failed = (tmp_path / "tree/data/fetched/webvid2m_failed.tsv").read_text()
    assert "HTTP 404" in failed and "a web page" in failed
    assert [name for name in tree(tmp_path / "tree") if name.endswith("1.mp4")] == [
        "data/webvid2m/videos/pagestrain/1.mp4",
        "data/webvid2m/videos/pagesval/1.mp4",
    ]


def test_images_are_named_as_in_the_released_annotations(tmp_path, sets):
    with hostile({"/a.jpg": Page(b"\xff\xd8 an image")}) as address:
        folder = tmp_path / "data/cc3m/txt"
        folder.mkdir(parents=True)
        for name in ("train.tsv", "val.tsv"):
            (folder / name).write_text(f'a "quoted caption\t{address}/a.jpg\n')
        fetch_media("cc3m", tmp_path, workers=1, say=lambda _: None)
        from zlib import crc32

        assert (tmp_path / f"data/cc3m/images/training/{crc32(f'{address}/a.jpg'.encode())}").exists()


def test_unavailable_images_are_skipped_until_fetched(tmp_path, sets):
    pages = {"/a.jpg": Page(b"\xff\xd8 a"), "/b.jpg": Page(status=404), "/c.jpg": Page(b"\xff\xd8 c")}
    folder = tmp_path / "data/cc3m/txt"
    folder.mkdir(parents=True)
    (folder / "known_missing.txt").write_text("# of my own\nother")
    corpus = Corpus(media="image", train=f"{folder}/train.tsv", root=f"{tmp_path}/data/cc3m/images")
    with hostile(pages) as address:
        for name in ("train.tsv", "val.tsv"):
            (folder / name).write_text("".join(f"picture {letter}\t{address}/{letter}.jpg\n" for letter in "abc"))
        lines = []
        for _ in range(2):  # the second run knows the failures and lists none twice
            fetch_media("cc3m", tmp_path, workers=2, say=lines.append)
            assert [record.captions for record in read_corpus(corpus)] == [("picture a",), ("picture c",)]
            tables = read_tables(corpus, ["train"])
            assert (len(tables.rows), tables.known_missing) == (2, 1)
        assert f"{folder}/known_missing.txt lists the unavailable files; trainings leave them out" in lines[-1]
        listed = (folder / "known_missing.txt").read_text().splitlines()
        gone = [image_name(f"{address}/b.jpg", split) for split in ("training", "validation")]
        assert listed == ["# of my own", "other", "# unavailable to `alpro data fetch cc3m`", *gone]
        pages["/b.jpg"] = Page(b"\xff\xd8 b")
        fetch_media("cc3m", tmp_path, workers=2, retry=True, say=lines.append)
    assert [record.captions for record in read_corpus(corpus)] == [("picture a",), ("picture b",), ("picture c",)]


def test_fetch_fails_without_listing_if_no_file_is_available(tmp_path, sets):
    folder = tmp_path / "data/cc3m/txt"
    folder.mkdir(parents=True)
    for name in ("train.tsv", "val.tsv"):
        (folder / name).write_text("a picture\thttp://127.0.0.1:9/a.jpg\n")
    with pytest.raises(DataError, match="none of its 2 files is available"):
        fetch_media("cc3m", tmp_path, workers=1, say=lambda _: None)
    assert not (folder / "known_missing.txt").exists()


def test_table_with_a_path_outside_the_folder_is_refused(tmp_path, sets):
    folder = tmp_path / "data/webvid2m/txt"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("videoid,contentUrl,page_dir\nx,http://127.0.0.1:9/x,../../..\n")
    with pytest.raises(DataError, match=r"row 1: '../../../x.mp4' leads out"):
        fetch_media("webvid2m", tmp_path, say=lambda _: None)
