"""The official layouts become typed records; every fault is reported with its file, line and key."""

import json
import pickle
import shlex
from pathlib import Path

import pandas
import pytest

from alpro.config import Corpus, Dataset
from alpro.data.annotations.media_files import MediaFolder
from alpro.data.annotations.read import missing_files, read_answers, read_corpus, read_dataset
from alpro.data.annotations.records import Question, Record
from alpro.data.media.extensions import bare_name
from alpro.errors import DataError


def jsonl(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row + "\n" if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def files(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def retrieval(root):
    return Dataset(task="retrieval", annotations=str(root / "txt"), videos=str(root / "videos"))


def qa(root):
    return Dataset(task="qa", annotations=str(root / "txt"), videos=str(root / "videos"))


def corpus(path, media="video"):
    return Corpus(media=media, train=str(path), root=str(path.parent / "media"))


# --- rows and records --------------------------------------------------------------------------------------


def test_captions_of_one_video_become_one_record_in_file_order(tmp_path):
    jsonl(
        tmp_path / "txt" / "train.jsonl",
        {"clip_name": "video7", "caption": "a ball", "sen_id": 3},
        "",
        {"clip_name": "video2.mp4", "caption": " a box "},
        {"clip_name": "video7", "caption": ["a ball rolls", "it rests"]},
    )
    files(tmp_path / "videos", "video7.mp4", "video2.mp4")
    videos = tmp_path / "videos"
    assert read_dataset(retrieval(tmp_path), "train") == [
        Record("video7", videos / "video7.mp4", captions=("a ball", "a ball rolls", "it rests")),
        Record("video2", videos / "video2.mp4", captions=("a box",)),
    ]


def test_questions_carry_their_row_number_and_type(tmp_path):
    jsonl(
        tmp_path / "txt" / "test.jsonl",
        {"video_id": "vid1", "question": "what is it?", "answer": "ball", "answer_type": "what"},
        {"video_id": 2, "question": "Who sings?", "answer": "man"},
        {"video_id": "vid1", "question": "how many?", "answer": 2, "answer_type": "how"},
    )
    files(tmp_path / "videos", "vid1.avi", "2.avi")
    first, second = read_dataset(qa(tmp_path), "test")
    assert first.path.name == "vid1.avi" and second.id == "2" and second.path.name == "2.avi"
    assert first.questions == (Question(0, "what is it?", "ball", "what"), Question(2, "how many?", "2", "how"))
    assert second.questions == (Question(1, "Who sings?", "man", "who"),)  # the type is the first word


def test_split_can_be_a_json_list(tmp_path):
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt" / "val.json").write_text(json.dumps([{"video": "a", "caption": "x"}]))
    assert [record.id for record in read_dataset(retrieval(tmp_path), "val")] == ["a"]


@pytest.mark.parametrize("form", ["csv", "semicolon", "tsv", "parquet", "jsonl"])
def test_corpus_is_read_from_any_table(tmp_path, form):
    table = pandas.DataFrame({"video_id": ["001", "002", "001"], "text": ["a, b", "null", "c"], "txt_len": [2, 1, 1]})
    path = tmp_path / f"train.{form if form in ('tsv', 'parquet', 'jsonl') else 'csv'}"
    if form == "parquet":
        table.to_parquet(path)
    elif form == "jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep={"csv": ",", "semicolon": ";", "tsv": "\t"}[form])
    files(tmp_path / "media", "001.mp4")
    first, second = read_corpus(corpus(path))
    assert (first.id, first.captions) == ("001", ("a, b", "c"))  # an id stays text and keeps its leading zeros
    assert second.captions == ("null",)  # a word that some table readers take for an empty cell
    assert missing_files([first, second]) == [second]


def test_cc3m_json_accepts_relative_and_absolute_image_paths(tmp_path):
    files(tmp_path / "media" / "train", "1.jpg")
    files(tmp_path / "elsewhere", "2.png")
    path = tmp_path / "cc3m.json"
    rows = [{"image": "train/1.jpg", "caption": "a"}, {"image": str(tmp_path / "elsewhere" / "2.png"), "caption": ["b", "c"]}]
    path.write_text(json.dumps(rows))
    first, second = read_corpus(corpus(path, "image"))
    assert first == Record("train/1", tmp_path / "media" / "train" / "1.jpg", "image", ("a",))
    assert second.captions == ("b", "c") and second.path == tmp_path / "elsewhere" / "2.png"
    assert not missing_files([first, second])


def test_published_webvid_table_gives_the_folder_of_each_video(tmp_path):
    path = tmp_path / "results_2M_val.csv"
    path.write_text(
        "videoid,contentUrl,duration,page_dir,name\n17,http://x/y,PT00H00M11S,019001_019050,A man, who\n".replace(
            "A man, who", '"A man, who"'
        )
    )
    files(tmp_path / "media" / "019001_019050", "17.mp4")
    (record,) = read_corpus(corpus(path))
    assert record.captions == ("A man, who",) and not missing_files([record])


def test_corpus_without_validation_gives_no_validation_records(tmp_path):
    assert read_corpus(corpus(tmp_path / "x.csv"), "val") == []


def test_answers_have_labels_from_zero(tmp_path):
    jsonl(tmp_path / "txt" / "train_ans2label.json", '{"man": 1, "ball": 0}')
    assert read_answers(qa(tmp_path)) == {"man": 1, "ball": 0}


# --- files of videos --------------------------------------------------------------------------------------


def test_video_is_found_by_name_with_any_extension(tmp_path):
    there = ["a.AVI", "b.mov", "c.m2ts", "d.", "e@N01_5.1.3gp", "f.mp4", "f.mov", "g.jpg", "sub/h.webm"]
    files(tmp_path, *there)
    folder = MediaFolder(tmp_path, "video")
    names = ["a", "b.mp4", "c", "d", "d.", "e@N01_5.1", "f", "f.mov", "sub/h"]
    found = [folder.path(name).relative_to(tmp_path).as_posix() for name in names]
    assert found == ["a.AVI", "b.mov", "c.m2ts", "d.", "d.", "e@N01_5.1.3gp", "f.mp4", "f.mov", "sub/h.webm"]
    assert MediaFolder(tmp_path, "image").path("g").name == "g.jpg"


def test_missing_video_has_the_expected_path(tmp_path):
    files(tmp_path, "a.avi", "b.avi", "c.mp4")
    folder = MediaFolder(tmp_path, "video")
    assert [folder.path(name).name for name in ("x", "y.mov", "z.", "sub/w")] == ["x.avi", "y.mov", "z.avi", "w.mp4"]
    records = [Record("a", folder.path("a")), Record("x", folder.path("x")), Record("w", folder.path("sub/w"))]
    assert [record.id for record in missing_files(records)] == ["x", "w"]


def test_folder_is_listed_only_once(tmp_path, monkeypatch):
    files(tmp_path, "a.mp4")
    import os

    listed, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listdir(path))
    folder = MediaFolder(tmp_path, "video")
    for number in range(50):
        folder.path(f"video{number}")
    assert listed == [tmp_path]


def test_link_to_another_sets_videos_is_followed_and_a_broken_one_reported(tmp_path):
    files(tmp_path / "msrvtt_ret", "video1.mp4")
    (tmp_path / "good").symlink_to(tmp_path / "msrvtt_ret")
    (tmp_path / "bad").symlink_to(tmp_path / "nowhere")
    assert MediaFolder(tmp_path / "good", "video").path("video1").is_file()
    with pytest.raises(DataError, match=r"bad: is a broken link \(to .*nowhere\); fix it"):
        MediaFolder(tmp_path / "bad", "video")


def test_folders_and_dangling_links_are_not_videos(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    (tmp_path / "b.mp4").symlink_to(tmp_path / "gone.mp4")
    records = [Record(name, tmp_path / f"{name}.mp4") for name in "ab"]
    assert missing_files(records) == records


def test_file_extensions_are_removed_from_names():
    names = ["video1.mp4", "x.3GP", "y.", "z", "a.b.jpg", "1@N_2.5", ".mp4"]
    assert [bare_name(name) for name in names] == ["video1", "x", "y", "z", "a.b", "1@N_2.5", ".mp4"]


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", r"train\.jsonl: line 2, column \d: not valid JSON"),
        ("[1]", r"train\.jsonl: line 2: a list instead of an object"),
        ({"caption": "x"}, r"line 2: key 'clip_name' or .* is missing; the row has 'caption'"),
        ({"clip_name": "b"}, r"line 2: key 'caption' or .* is missing"),
        ({"clip_name": "b", "caption": 5}, r"line 2: caption: a number instead of a text"),
        ({"clip_name": "b", "caption": None}, r"line 2: caption: null instead of a text"),
        ({"clip_name": True, "caption": "x"}, r"line 2: clip_name: a truth value instead of a text"),
        ({"clip_name": "b", "caption": "  "}, r"line 2: caption: empty; give a text or remove the row"),
        ({"clip_name": "b", "caption": []}, r"line 2: caption: an empty list"),
        ({"clip_name": "b", "caption": ["x", ""]}, r"line 2: caption: empty"),
        ({"clip_name": "a.avi", "caption": "x"}, r"line 2: 'a\.avi' and the earlier 'a' both have the id 'a'"),
    ],
)
def test_broken_caption_row_is_reported(tmp_path, row, words):
    jsonl(tmp_path / "txt" / "train.jsonl", {"clip_name": "a", "caption": "x"}, row)
    with pytest.raises(DataError, match=words):
        read_dataset(retrieval(tmp_path), "train")


def test_all_errors_are_reported_at_once_and_many_are_counted(tmp_path):
    rows = [{"video_id": "a", "question": "what?", "answer": ""}] * 12 + [{"video_id": "a", "answer": "x"}]
    jsonl(tmp_path / "txt" / "train.jsonl", *rows)
    with pytest.raises(DataError) as error:
        read_dataset(qa(tmp_path), "train")
    lines = str(error.value).splitlines()
    assert len(lines) == 11 and "line 1: answer: empty; give a text or remove the row" in lines[0]
    assert lines[-1].endswith("and 3 more")


def test_unknown_split_or_missing_file_is_reported(tmp_path):
    jsonl(tmp_path / "txt" / "train.jsonl", {"clip_name": "a", "caption": "x"})
    with pytest.raises(DataError, match="no split 'dev'; there are train, val, test"):
        read_dataset(retrieval(tmp_path), "dev")
    with pytest.raises(DataError, match=r"val\.jsonl: not found \(train\.jsonl\)"):
        read_dataset(retrieval(tmp_path), "val")
    with pytest.raises(DataError, match=r"train\.csv: not found"):
        read_corpus(corpus(tmp_path / "train.csv"))
    with pytest.raises(DataError, match="a corpus has no split 'test'"):
        read_corpus(corpus(tmp_path / "train.csv"), "test")


def test_pickle_is_refused_without_opening_it(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "opened",)

    path = tmp_path / "a 'train'.pkl"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"a pickle can run .* converts it without running code; then name the \.csv") as error:
        read_corpus(corpus(path))
    command = shlex.split(str(error.value).split("`")[1])
    assert command == ["alpro", "data", "unpickle", str(path), str(path.with_suffix(".csv"))]
    assert "\n" not in str(error.value) and not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xlsx", b"x", "unknown format"),
        ("a.csv", b"", "empty; the first line names the columns"),
        ("a.csv", b"video_id,text\n1,a,b,c\n2,d\n", r"line 2: 4 cells, but 2 columns are named; quote"),
        ("a.csv", b"video_id,text\n", "has no rows"),
        ("a.csv", b'video_id,text\n1,"a\n', "line 2: the quoted cell that opens here is not closed; close the quotation mark"),
        ("a.csv", b"video_id,text\n1,\n", r"line 2: text: empty"),
        ("a.csv", b"id,text\n1,x\n", r"line 2: key 'video_id' or .* is missing; the row has 'id', 'text'"),
        ("a.csv", "video_id,text\n1,é\n".encode("latin-1"), "not UTF-8"),
        ("a.jsonl", '{"video_id": "1", "text": "é"}\n'.encode("latin-1"), "not UTF-8"),
        ("a.json", b"{}", "an object instead of a list"),
        (
            "a.json",
            b'[1, {"video_id": "a", "text": "b"}, null]',
            r"(?s)row 1: a number instead of an object.*row 3: null instead",
        ),
        ("a.json", b"[{]", "line 1, column 3: not valid JSON: .*; it must be JSON in UTF-8"),
        ("a.parquet", b"PAR1", "not a Parquet file"),
    ],
)
def test_file_that_is_not_a_table_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        read_corpus(corpus(tmp_path / name))
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "must be one object"),
        ("{}", "at least one answer"),
        ('{"a": "0", "b": 1, "c": null}', "(?s)'a': label '0' is not a whole number.*'c': label None is"),
        ('{"a": 0, "b": 2}', "labels must be 0 to 1, each once"),
        ('{"a": 0, "b": 0}', "labels must be 0 to 1, each once"),
    ],
)
def test_answer_list_that_skips_or_repeats_labels_is_refused(tmp_path, content, words):
    jsonl(tmp_path / "txt" / "train_ans2label.json", content)
    with pytest.raises(DataError, match=words):
        read_answers(qa(tmp_path))
