"""Tables of texts: their columns are found by name or content, rows are matched with videos, and nothing is lost silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alpro.data.media.probe import VideoInfo
from alpro.errors import DataError
from alpro.own_data.columns import Columns, find_columns
from alpro.own_data.texts import read_texts
from alpro.own_data.videos import Videos, read_videos

from .conftest import COUNT, write_captions

NAMES = {"a.mp4", "b.mp4"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"video": "a.mp4", "caption": "x y"}, Columns("video", caption="caption")),
        ({"Clip": "a.mp4", "Sentence": "x y", "Split": "train"}, Columns("Clip", caption="Sentence", split="Split")),
        ({"id": "7", "File Name": "a.mp4", "Description": "x"}, Columns("File Name", caption="Description")),
        ({"path": "b.mp4", "question": "q ?", "answer": "z"}, Columns("path", question="question", answer="answer")),
        (
            {"video_id": "a.mp4", "Question": "q ?", "Answers": "z", "answer_type": "what"},
            Columns("video_id", question="Question", answer="Answers", answer_type="answer_type"),
        ),
        ({"x1": "a.mp4", "x2": "some words here", "x3": "9"}, Columns("x1", caption="x2")),
        ({"x1": "a.mp4", "x2": "some words here", "x3": "other words here"}, None),
        ({"video": "c.mp4", "caption": "x y"}, None),
        ({"video": "a.mp4", "question": "q ?"}, None),
    ],
    ids=str,
)
def test_columns_are_found_by_name_or_content(row: dict[str, str], expected: Columns | None) -> None:
    assert find_columns([row] * 3, NAMES.__contains__) == expected


def test_table_with_captions_and_questions_is_used_for_the_task_that_is_asked_for() -> None:
    row = {"video": "a.mp4", "caption": "x y", "question": "q ?", "answer": "z"}
    assert [find_columns([row], NAMES.__contains__, task).task for task in (None, "qa", "retrieval")] == [
        "qa",
        "qa",
        "retrieval",
    ]


@pytest.fixture
def videos(clips: Path, infos: dict[str, VideoInfo]) -> Videos:
    """The readable videos of a folder of the test."""
    return Videos(clips, infos)


def test_videos_are_found_by_every_name_that_tables_use(videos: Videos) -> None:
    for name in (
        "sub/clip1.avi",
        "sub/clip1",
        "clip1.avi",
        "clip1",
        "SUB/CLIP1.AVI",
        "sub\\clip1.avi",
        "/old/disk/sub/clip1.avi",
    ):
        assert videos.find(name) == "sub/clip1.avi", name
    assert videos.find("clip99") is None and videos.find("") is None


def test_name_of_several_videos_needs_its_folder(clips: Path, project: Path) -> None:
    (clips / "other").mkdir()
    for copy in ("other/clip1.avi", "sub/clip0.avi"):
        (clips / copy).write_bytes((clips / "clip2.avi").read_bytes())
    videos = read_videos(clips, workers=0)
    assert videos.is_ambiguous("clip1.avi") and not videos.is_ambiguous("clip3.avi")
    assert (videos.find("clip1.avi"), videos.find("other/clip1.avi")) == (None, "other/clip1.avi")
    assert (videos.find("clip0.avi"), videos.find("sub/clip0.avi")) == ("clip0.avi", "sub/clip0.avi")
    (clips / "t.csv").write_text("video,caption\nclip1.avi,a bar\nclip3.avi,a bar\n")
    texts = read_texts(videos)
    assert texts is not None and "several videos have this name; write it with its folder" in texts.left_out[0][1]


def test_unreadable_videos_are_named(clips: Path, project: Path) -> None:
    (clips / "broken.mp4").write_text("<html>")
    (clips / "empty.mp4").touch()
    (clips / "clip0.mkv").write_bytes((clips / "clip0.avi").read_bytes())
    videos = read_videos(clips, workers=0)
    assert [name for name, _ in videos.left_out] == ["broken.mp4", "clip0.mkv", "empty.mp4"]
    assert "has the name of clip0.avi" in dict(videos.left_out)["clip0.mkv"] and len(videos.infos) == COUNT


def write(folder: Path, form: str) -> None:
    """Write the same captions of three videos in one of the forms."""
    rows = [{"video": f"clip{n}.avi", "caption": f"bar number {n}"} for n in range(3)]
    lists = {f"clip{n}": [f"bar number {n}"] for n in range(3)}
    contents = {
        "t.csv": "video,caption\n" + "".join(f"{r['video']},{r['caption']}\n" for r in rows),
        "semicolons.csv": "video;caption\n" + "".join(f"{r['video']};{r['caption']}\n" for r in rows),
        "t.tsv": "video\tcaption\n" + "".join(f"{r['video']}\t{r['caption']}\n" for r in rows),
        "t.json": json.dumps(rows),
        "t.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "map.json": json.dumps({row["video"]: row["caption"] for row in rows}),
        "lists.json": json.dumps(lists),
    }
    (folder / form).write_text(contents[form])


@pytest.mark.parametrize("form", ["t.csv", "semicolons.csv", "t.tsv", "t.json", "t.jsonl", "map.json", "lists.json"])
def test_same_texts_in_every_form(form: str, videos: Videos) -> None:
    write(videos.folder, form)
    texts = read_texts(videos)
    assert texts is not None and texts.task == "retrieval"
    assert [(t.video, t.text) for t in texts.texts] == [
        ("clip0.avi", "bar number 0"), ("sub/clip1.avi", "bar number 1"), ("clip2.avi", "bar number 2"),
    ]  # fmt: skip


def test_files_of_splits_are_one_table(videos: Videos) -> None:
    for split, numbers in (("train", (0, 1)), ("val", (2,)), ("test", (3,))):
        (videos.folder / f"{split}.csv").write_text("video,caption\n" + "".join(f"clip{n},some words\n" for n in numbers))
    texts = read_texts(videos)
    assert texts is not None and {t.video: t.split for t in texts.texts} == {
        "clip0.avi": "train", "sub/clip1.avi": "train", "clip2.avi": "val", "sub/clip3.avi": "test",
    }  # fmt: skip


def test_rows_that_cannot_be_used_are_named_with_the_reason(videos: Videos) -> None:
    videos = Videos(videos.folder, videos.infos, [("broken.mp4", "can't be opened")])
    (videos.folder / "t.csv").write_text("video,caption\nclip0,one bar\nclip99,two bars\nbroken.mp4,x y\nclip2, \n,no name\n")
    texts = read_texts(videos)
    assert texts is not None and [t.video for t in texts.texts] == ["clip0.avi"]
    assert [position for position, _ in texts.left_out] == [f"t.csv, line {n}" for n in (3, 4, 5, 6)]
    reasons = [reason for _, reason in texts.left_out]
    assert reasons[0].startswith("clip99: no such video in") and reasons[1].startswith(
        "broken.mp4: cannot be read: can't be opened"
    )
    assert reasons[2:] == ["caption is empty", "names no video"]


def test_other_files_in_the_folder_are_no_tables(videos: Videos) -> None:
    (videos.folder / "settings.json").write_text('{"a": {"b": 1}}')
    (videos.folder / "numbers.csv").write_text("x,y\n1,2\n")
    (videos.folder / "damaged.json").write_text("{")
    assert read_texts(videos) is None
    write_captions(videos.folder)
    texts = read_texts(videos)
    assert texts is not None and len(texts.texts) == 2 * COUNT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("video,caption\nother1,a bar\n", "no column names videos of"),
        ("video,number\nclip0,1\n", "no column has the texts (it has video, number)"),
        ("video,caption\n", "has no rows"),
        ("video,caption\nclip0,\n", "no row has a text for a readable video; fill in caption"),
        ("video,caption,split\nclip0,a bar,trian\n", "split: 'trian' must be train, val or test"),
        ("video,caption,split\nclip0,a bar,train\nclip0,a bar,test\n", "'clip0.avi' is in the splits train and test"),
        ("video,caption\nclip0,a, bar\n", "line 2"),
    ],
)
def test_unusable_table_is_refused_in_one_line(content: str, message: str, videos: Videos) -> None:
    table = videos.folder / "given.csv"
    table.write_text(content)
    with pytest.raises(DataError) as error:
        read_texts(videos, [table])
    assert message in str(error.value) and "given.csv" in str(error.value) and "\n" not in str(error.value)


def test_several_tables_are_not_guessed_from(videos: Videos) -> None:
    write_captions(videos.folder, "one.csv")
    write_captions(videos.folder, "two.csv")
    with pytest.raises(DataError, match=r"several tables .*one\.csv, .*two\.csv.*--table"):
        read_texts(videos)
