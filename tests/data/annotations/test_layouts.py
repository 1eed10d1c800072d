"""The published formats and a single custom table give the same records as the official layouts."""

import json
import logging
import lzma
import zlib
from collections import Counter
from pathlib import Path

import pytest

from alpro.config import Corpus, Dataset
from alpro.data.annotations.media_files import MediaFolder
from alpro.data.annotations.read import answer_file, missing_files, read_answers, read_corpus, read_dataset
from alpro.data.sources.media import image_name
from alpro.errors import DataError

ANNOTATIONS = Path(__file__).parents[2] / "annotations"


def unpacked(name, folder):
    """Unpack the real annotation files of a set into a folder."""
    folder.mkdir()
    for file in (ANNOTATIONS / name).glob("*.xz"):
        (folder / file.stem).write_bytes(lzma.decompress(file.read_bytes()))
    return folder


def dataset(task, root, annotations="txt"):
    return Dataset(task=task, annotations=str(root / annotations), videos=str(root / "videos"))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def captions(records):
    return {record.id: record.captions for record in records}


# --- real files -------------------------------------------------------------------------------------------


def test_published_msvd_qa_has_the_published_counts_by_type(tmp_path):
    unpacked("msvd_qa", tmp_path / "txt")
    touch(tmp_path / "videos", "mv89psg6zh4_33_46.avi")
    records = read_dataset(dataset("qa", tmp_path), "val")
    questions = [question for record in records for question in record.questions]
    assert (len(records), len(questions)) == (245, 6415)
    assert Counter(question.type for question in questions) == {"what": 3995, "who": 2168, "how": 185, "when": 51, "where": 16}
    first = records[0]  # its video is number 1201, whose line in youtube_mapping.txt names the clip
    names = dict(line.split()[::-1] for line in (tmp_path / "txt" / "youtube_mapping.txt").read_text().splitlines())
    assert first.id == names["vid1201"] and first.questions[0].answer == "someone"
    answers = read_answers(dataset("qa", tmp_path))
    assert len(answers) == 2423 and all(question.answer in answers for question in questions)


def test_published_didemo_sentences_become_one_paragraph_per_video(tmp_path):
    unpacked("didemo", tmp_path / "txt")
    rows = json.loads((tmp_path / "txt" / "val_data.json").read_text())
    bare_dot = next(row["video"] for row in rows if row["video"].endswith("."))
    touch(tmp_path / "videos", bare_dot + "mp4")
    records = read_dataset(dataset("retrieval", tmp_path), "val")
    assert len(records) == 1065 and len(rows) == 4180
    assert all(len(record.captions) == 1 for record in records)
    words = sum(len(record.captions[0].split()) for record in records)
    assert words == sum(len(row["description"].split()) for row in rows)
    assert records[0].id == "35034348999@N01_6060447507_dc1a90b8ef"
    assert records[0].captions[0].startswith("the man in the hat briefly bends over the machine ")
    (found,) = [record for record in records if record.path.is_file()]
    assert found.path.name == bare_dot + "mp4"


# --- generated files of the other formats ----------------------------------------------------------------------

MSRVTT = {
    "videos": [{"video_id": f"video{i}", "split": s} for i, s in enumerate(["train", "train", "validate", "test", "test"])],
    "sentences": [{"video_id": f"video{i % 5}", "caption": f"caption {i}", "sen_id": i} for i in range(10)],
}


def test_published_msrvtt_json_is_split_with_all_sentences(tmp_path):
    write(tmp_path / "txt" / "MSRVTT_data.json", MSRVTT)
    own = dataset("retrieval", tmp_path)
    assert captions(read_dataset(own, "train")) == {"video0": ("caption 0", "caption 5"), "video1": ("caption 1", "caption 6")}
    assert captions(read_dataset(own, "val")) == {"video2": ("caption 2", "caption 7")}
    assert list(captions(read_dataset(own, "test"))) == ["video3", "video4"]
    write(tmp_path / "txt" / "MSRVTT_data.json", {"videos": [MSRVTT["videos"][0], {"split": "train"}], "sentences": [{}, "a"]})
    with pytest.raises(
        DataError, match=r"(?s)MSRVTT_data\.json: video 2: no 'video_id': .*sentence 1: .*sentence 2: no .*: 'a';"
    ):
        read_dataset(own, "train")


@pytest.mark.parametrize("separator", [",", ";"])
def test_lists_of_the_1k_split_replace_msrvtts_own(tmp_path, separator):
    write(tmp_path / "txt" / "MSRVTT_data.json", MSRVTT)
    head = ["key", "vid_key", "video_id", "sentence"]
    lines = [
        separator.join(row) for row in (head, ["ret0", "msr4", "video4", "a man, no, a dog" if separator == ";" else "a dog"])
    ]
    write(tmp_path / "txt" / "MSRVTT_JSFUSION_test.csv", "\n".join(lines) + "\n")
    write(tmp_path / "txt" / "MSRVTT_train.9k.csv", "video_id\nvideo0\nvideo1\nvideo3\n")
    own = dataset("retrieval", tmp_path)
    assert captions(read_dataset(own, "test")) == {"video4": ("a man, no, a dog" if separator == ";" else "a dog",)}
    assert list(captions(read_dataset(own, "train"))) == ["video0", "video1", "video3"]
    assert list(captions(read_dataset(own, "val"))) == ["video2"]


def test_msrvtt_qa_numbers_become_msrvtt_names(tmp_path):
    write(tmp_path / "txt" / "test_qa.json", [{"id": 1, "video_id": 7010, "question": "what is it?", "answer": "dog"}])
    touch(tmp_path / "videos", "video7010.mp4")
    (record,) = read_dataset(dataset("qa", tmp_path), "test")
    assert record.id == "video7010" and not missing_files([record])


def test_numbers_missing_from_the_mapping_are_all_reported(tmp_path):
    rows = [{"video_id": number, "question": "what is it?", "answer": "dog"} for number in (2, 1, 3)]
    write(tmp_path / "txt" / "val_qa.json", rows)
    write(tmp_path / "txt" / "youtube_mapping.txt", "abc_1_2 vid1\n")
    with pytest.raises(
        DataError, match=r"(?s)val_qa\.json: row 1: video_id: youtube_mapping\.txt has no vid2.*row 3: .* no vid3"
    ):
        read_dataset(dataset("qa", tmp_path), "val")
    write(tmp_path / "txt" / "youtube_mapping.txt", "abc_1_2\nabc vid1\na b c\n")
    with pytest.raises(DataError, match=r"(?s)youtube_mapping\.txt: line 1: 'abc_1_2' is not `name vidN`.*line 3: 'a b c'"):
        read_dataset(dataset("qa", tmp_path), "val")


URLS = [f"http://images.example/{name}.jpg" for name in "abcde"]


def test_published_cc3m_table_finds_images_by_the_names_of_common_downloaders(tmp_path):
    write(tmp_path / "train.tsv", "".join(f'a "{i}, so\t{url}\n' for i, url in enumerate(URLS)))
    names = [image_name(URLS[0], "training"), image_name(URLS[1], "validation"), f"2_{zlib.crc32(URLS[2].encode())}",
             "00000/000000003.jpg"]  # fmt: skip
    touch(tmp_path / "images", *names)
    records = read_corpus(Corpus(media="image", train=str(tmp_path / "train.tsv"), root=str(tmp_path / "images")))
    assert [record.captions for record in records] == [(f'a "{i}, so',) for i in range(5)]
    assert missing_files(records) == records[4:] and records[4].id == image_name(URLS[4], "training")
    assert [record.path.relative_to(tmp_path / "images").as_posix() for record in records[:4]] == names
    write(tmp_path / "train.tsv", f"a\t{URLS[0]}\nb\n\nc\td\te\n")
    with pytest.raises(DataError) as error:
        read_corpus(Corpus(media="image", train=str(tmp_path / "train.tsv"), root=str(tmp_path / "images")))
    assert "train.tsv: line 2: 1 cells" in str(error.value) and "train.tsv: line 4: 3 cells" in str(error.value)


def test_moved_images_are_found_by_the_end_of_their_path(tmp_path):
    touch(tmp_path, "training/1.jpg", "2.jpg")
    folder = MediaFolder(tmp_path, "image")
    found = [folder.path(name) for name in ("/old/disk/training/1.jpg", "/old/disk/training/2.jpg", "./images/2.jpg")]
    assert found == [tmp_path / "training" / "1.jpg", tmp_path / "2.jpg", tmp_path / "2.jpg"]
    assert folder.path("/old/disk/training/3.jpg") == tmp_path / "3.jpg" and not folder.has("/old/disk/training/3.jpg")


# --- one custom table --------------------------------------------------------------------------------


def test_single_table_with_a_split_column_is_a_dataset(tmp_path):
    write(
        tmp_path / "own.csv",
        'split,video,caption\ntrain,a.mp4,a dog\nVal,b.mp4,a cat\ntrain,a.mp4,"a dog, running"\ntest,c,x\n',
    )
    own = dataset("retrieval", tmp_path, "own.csv")
    assert captions(read_dataset(own, "train")) == {"a": ("a dog", "a dog, running")}
    assert list(captions(read_dataset(own, "val"))) == ["b"] and list(captions(read_dataset(own, "test"))) == ["c"]


def test_answer_list_is_derived_from_the_training_questions(tmp_path):
    rows = [("train", "cat"), ("train", "dog"), ("train", "dog"), ("train", "ant"), ("val", "cow")]
    lines = [{"split": s, "video": f"v{i}", "question": "is it?", "answer": a} for i, (s, a) in enumerate(rows)]
    write(tmp_path / "own.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    own = dataset("qa", tmp_path, "own.jsonl")
    assert answer_file(own) is None
    assert read_answers(own) == {"dog": 0, "ant": 1, "cat": 2}  # by frequency, then alphabetically
    assert read_dataset(own, "val")[0].questions[0].type == "is"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("video,caption\na,x\n", ["own.csv: line 2: no column 'split'; add one"]),
        ("split,video,caption\ntrain,a,x\n", ["has no rows"]),
        (
            "split,video,caption\nval,a,x\ntrial,b,y\ntrain,c\n,d,z\n",
            ["line 3: split: 'trial' must be train, val or test", "line 5: split: '' must be train, val or test"],
        ),
    ],
)
def test_rows_without_a_valid_split_are_all_reported(tmp_path, content, words):
    write(tmp_path / "own.csv", content)
    with pytest.raises(DataError) as error:
        read_dataset(dataset("retrieval", tmp_path, "own.csv"), "val")
    assert not [word for word in words if word not in str(error.value)]


def test_several_answer_lists_are_refused(tmp_path):
    for name in ("a_ans2label.json", "b_ans2label.json"):
        write(tmp_path / "txt" / name, {"dog": 0})
    with pytest.raises(DataError, match=r"several answer lists \(a_ans2label\.json, b_ans2label\.json\)"):
        answer_file(dataset("qa", tmp_path))


# --- videos known to be missing ----------------------------------------------------------------------------------


def test_known_missing_videos_are_skipped_and_logged_if_absent(tmp_path, caplog):
    official = "77807177@N00_5753455690_1e04ccb364"
    rows = [{"clip_name": name, "caption": "x"} for name in (official, "gone", "here", "lost")]
    write(tmp_path / "txt" / "test.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(tmp_path / "txt" / "known_missing.txt", "# gone since 2019\ngone.mp4\nhere\n")
    touch(tmp_path / "videos", "here.mp4")
    with caplog.at_level(logging.WARNING):
        assert list(captions(read_dataset(dataset("retrieval", tmp_path), "test"))) == ["here", "lost"]
    assert f"left out 2 videos that are known to be missing: {official}, gone" in caplog.text
    touch(tmp_path / "videos", "gone.mp4")
    assert "gone" in captions(read_dataset(dataset("retrieval", tmp_path), "test"))
