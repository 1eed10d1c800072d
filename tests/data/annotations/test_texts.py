"""Texts and tables with faults: each is reported with its line, and no row is lost silently."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pandas
import pytest

from alpro.config import Corpus, Dataset
from alpro.data.annotations.media_files import MediaFolder, missing_paths
from alpro.data.annotations.read import read_answers, read_corpus, read_dataset
from alpro.data.annotations.rows import Faults, read_rows
from alpro.data.media.read import read_frames
from alpro.data.sources.known_missing import known_missing
from alpro.data.validation.tables import read_tables
from alpro.errors import DataError
from tests.data.annotations.fuzz import try_file

SPLITS = ("train", "val", "test")
HEADER = "split\tvideo\tcaption\n"


def own(path: Path, content: str | bytes, task: str = "retrieval") -> Dataset:
    """Write one table and return the set."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return Dataset(task=task, annotations=str(path), videos=str(path.parent / "videos"))


def captions(source: Dataset) -> list[str]:
    return [text for split in SPLITS for record in read_dataset(source, split) for text in record.captions]


def faults(source: Dataset | Corpus) -> list[str]:
    """Return the faults that a training reports, which the check must report too."""
    with pytest.raises(DataError) as error:
        if isinstance(source, Corpus):
            read_corpus(source)
        else:
            for split in SPLITS:
                read_dataset(source, split)
    lines = str(error.value).splitlines()
    checked = read_tables(source, ("train",) if isinstance(source, Corpus) else SPLITS).faults
    assert set(lines) <= set(checked), (lines, checked)
    return lines


# --- lone surrogates and NUL characters ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (r'{"split": "val", "video": "b", "caption": "a red box \ud83d"}', r"line 2: caption: has half of a character"),
        (r'{"split": "val", "video": "b", "caption": ["ok", "\udc4d"]}', r"the lone surrogate \udc4d"),
        (r'{"split": "val", "video": "b\ud800", "caption": "ok"}', "line 2: video: has half of a character"),
        (r'{"split": "val", "video": "b", "caption": "ok", "note\ud83d": 1}', "line 2: note"),
        (r'{"split": "val", "video": "b\u0000", "caption": "ok"}', "line 2: video: has a NUL character"),
    ],
)
def test_a_text_that_utf8_cannot_encode_is_an_error_with_its_line(tmp_path: Path, row: str, words: str) -> None:
    source = own(tmp_path / "own.jsonl", f'{{"split": "train", "video": "a", "caption": "x"}}\n{row}\n')
    assert words in "\n".join(faults(source)) and f"{tmp_path}/own.jsonl" in faults(source)[0]


def test_surrogates_are_found_in_every_layout(tmp_path: Path) -> None:
    half = r"half \ud83d"
    rows = f'[{{"video": "a", "caption": "{half}"}}]'
    assert "row 1: caption" in faults(own(tmp_path / "splits.json", f'{{"train": {rows}, "val": [], "test": []}}'))[0]
    assert (
        "row 1: caption" in faults(own(tmp_path / "list.json", f'[{{"split": "train", "video": "a", "caption": "{half}"}}]'))[0]
    )
    content = f'{{"videos": [{{"video_id": "a", "split": "train"}}], "sentences": [{{"video_id": "a", "caption": "{half}"}}]}}'
    assert "sentence 1: caption" in faults(own(tmp_path / "msrvtt.json", content))[0]
    answers = tmp_path / "qa" / "train_ans2label.json"
    answers.parent.mkdir()
    answers.write_text('{"' + half + '": 0}')
    with pytest.raises(DataError, match=r"train_ans2label\.json: .*half of a character"):
        read_answers(Dataset(task="qa", annotations=str(answers.parent), videos="videos"))


def test_sound_pairs_of_surrogates_are_characters(tmp_path: Path) -> None:
    rows = "".join(f'{{"split": "{s}", "video": "{s}", "caption": "go \\ud83d\\udc4d"}}\n' for s in SPLITS)
    assert captions(own(tmp_path / "own.jsonl", rows)) == ["go 👍"] * 3


# --- quotation marks ---------------------------------------------------------------------------------------------

QUOTED = ['"go said the coach', "a woman walks", 'the crowd shouts go"', 'a 12" pizza', '"stop"', '"he says ""no"""', "x", "y"]


def test_quotation_marks_of_a_tsv_are_text(tmp_path: Path) -> None:
    rows = [f"{SPLITS[max(0, n - 5)]}\tv{n}\t{text}\n" for n, text in enumerate(QUOTED)]
    source = own(tmp_path / "own.tsv", HEADER + "".join(rows))
    assert captions(source) == QUOTED
    assert list(read_tables(source, SPLITS).rows["text"]) == QUOTED


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        (['train,v1,"hello there', "train,v2,a woman", 'train,v3,a 12" pizza', 'val,v4,"a, b"', "test,v5,x"], [2]),
        (['train,v1,"go said the coach', "train,v2,a woman", 'val,v3,and the crowd"', "test,v4,x"], [2]),
        (["train,v1,x", 'train,v2,"a "b" c"', "val,v3,y", "test,v4,x"], [3]),
        (["train,v1,x", "val,v2,y", 'test,v3,"never closed'], [4]),
        (['train,v1,"two', "lines, in one", 'cell"', 'val,v2,"open', "test,v3,x", "test,v4,y"], [5]),
        (['train,"v1', 'train,v2,"a', "val,v3,x", "test,v4,y"], [2, 3]),
    ],
)
def test_a_quoting_error_names_the_line_in_which_the_quotation_mark_opens(
    tmp_path: Path, rows: list[str], lines: list[int]
) -> None:
    source = own(tmp_path / "own.csv", "\n".join(["split,video,caption", *rows]) + "\n")
    found = [int(fault.split(": line ")[1].split(":")[0]) for fault in faults(source)]
    assert found == lines and all("quoted cell that opens here" in fault for fault in faults(source))


@pytest.mark.parametrize(
    "text",
    [
        "A man walks.\nSlowly, he turns.",
        "A man walks.\nSlowly, he turns, and waves.",
        "Slowly, he turns.\nQuickly, he walks.\nThen, too.",
        "a crowd\n1,000 people cheer",
        "a film\n3D, in colour",
        "two, in all\nval, bus, car",
    ],
)
@pytest.mark.parametrize(
    "names", [["v1", "v2"], ["video7010", "video7011"], ["dog", "Cat"], ["-4wsuPCjDBc_5_15", "gqHj8rk_1_9"]]
)
@pytest.mark.parametrize("columns", [["split", "video", "caption"], ["video", "caption"], ["caption", "video"]])
def test_commas_in_a_cell_of_several_lines_are_text(text: str, names: list[str], columns: list[str], tmp_path: Path) -> None:
    table = pandas.DataFrame({"split": ["train"] * 2, "video": names, "caption": [text, "x"]})[columns]
    table.to_csv(tmp_path / "own.csv", index=False)
    rows = [row for _, row in read_rows(tmp_path / "own.csv")]
    assert [row["caption"] for row in rows] == [text, "x"] and [row["video"] for row in rows] == names


@pytest.mark.parametrize(
    "rows",
    [
        ["v1,x", 'v2,"go said the coach', "v3,a woman", 'v4,the crowd shouts go"', "v5,y"],
        ["v1,x", 'v2,"hello', 'v3, the crowd"', "v5,y"],
        ["dog,x", 'cat,"hello, there', 'cow,the crowd"', "v5,y"],
        ["17,x", '18,"hello', '19,the crowd"', "v5,y"],
        ["a b.mp4,x", 'c d.mp4,"hello', 'e f.mp4,the crowd"', "v5,y"],
    ],
)
def test_rows_inside_of_a_quoted_cell_are_reported_and_not_read(rows: list[str], tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("\n".join(["video,caption", *rows]) + "\n")
    found = Faults(tmp_path / "own.csv")
    assert [row["caption"] for _, row in read_rows(tmp_path / "own.csv", found)] == ["x", "y"]
    last = len(rows)
    with pytest.raises(
        DataError, match=rf"line 3: the quoted cell that opens here continues to line {last}, .* not read; close"
    ):
        found.check()


def test_rows_inside_of_a_quoted_cell_of_the_first_column_are_reported(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text('caption,video\nx,v1\n"go said the coach,v2\na woman,v3\nthe crowd",v4\n')
    with pytest.raises(DataError, match="line 3: the quoted cell that opens here continues to line 5"):
        list(read_rows(tmp_path / "own.csv"))


def test_quotation_marks_of_a_tsv_with_one_column_are_text(tmp_path: Path) -> None:
    (tmp_path / "own.tsv").write_text('caption\n"go\nthe, crowd"\n')
    assert [row["caption"] for _, row in read_rows(tmp_path / "own.tsv")] == ['"go', 'the, crowd"']


@pytest.mark.parametrize(
    "text", ["two\nlines", 'a "quoted" word, and\r\na comma', "ends with a line\n\n\nend", "a, b\nval is, here"]
)
def test_a_quoted_cell_may_have_several_lines(tmp_path: Path, text: str) -> None:
    table = pandas.DataFrame({"split": SPLITS, "video": ["a", "b", "c"], "caption": [text, "x", text]})
    source = own(tmp_path / "own.csv", table.to_csv(index=False))
    assert captions(source) == [text.strip(), "x", text.strip()]


def test_columns_that_are_named_twice_are_refused(tmp_path: Path) -> None:
    assert "column 'caption' is named twice" in faults(own(tmp_path / "a.csv", "split,video,caption,caption\ntrain,a,x,y\n"))[0]
    assert "column 'video' is named twice" in faults(own(tmp_path / "a.tsv", "split\tvideo\tvideo\ntrain\ta\tx\n"))[0]


# --- JSON ----------------------------------------------------------------------------------------------------------


def test_an_object_with_a_list_for_each_split_is_a_set(tmp_path: Path) -> None:
    rows = {
        name: [{"video": f"{name}{n}", "caption": f"{name} {n}"} for n in (1, 2)] for name in ("train", "validation", "test")
    }
    source = own(tmp_path / "splits.json", json.dumps({**rows, "version": "1.0"}))
    assert captions(source) == ["train 1", "train 2", "validation 1", "validation 2", "test 1", "test 2"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"train": [], "extra": [{"video": "a", "caption": "x"}]}, "key 'extra': no split"),
        ({"val": [], "dev": [{"video": "a", "caption": "x"}]}, "key 'dev': the same split as 'val'"),
        ({"train": {"a": "x"}, "val": []}, "key 'train': must be a list of rows"),
        ({"train": [{"video": "a", "caption": "x"}, "b"], "val": []}, "train, row 2: 'b' instead of an object"),
        ({"data": [{"video": "a", "caption": "x"}]}, "an object (keys 'data') instead of a list of rows"),
    ],
)
def test_rows_under_other_keys_are_not_lost_silently(tmp_path: Path, content: object, words: str) -> None:
    assert words in "\n".join(faults(own(tmp_path / "splits.json", json.dumps(content))))


@pytest.mark.parametrize("number", [1, 2, 5])
def test_json_lines_in_a_json_file_are_read(tmp_path: Path, number: int) -> None:
    lines = [json.dumps({"clip_name": f"v{n}", "caption": f"box {n}"}) for n in range(number)]
    for split in SPLITS:
        (tmp_path / f"{split}.json").write_text("\n".join(lines) + "\n")
    source = Dataset(task="retrieval", annotations=str(tmp_path), videos=str(tmp_path))
    assert captions(source) == [f"box {n}" for n in range(number)] * 3


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_or_a_single_row_in_a_jsonl_file_is_read(tmp_path: Path, indent: int | None) -> None:
    rows = [{"split": split, "video": split, "caption": f"in {split}"} for split in SPLITS]
    assert captions(own(tmp_path / "own.jsonl", json.dumps(rows, indent=indent))) == ["in train", "in val", "in test"]
    (tmp_path / "one.jsonl").write_text(json.dumps(rows[0], indent=indent))
    (record,) = read_corpus(Corpus(media="video", train=str(tmp_path / "one.jsonl"), root="videos"))
    assert record.captions == ("in train",)
    assert "line 1, column 2: not valid JSON" in faults(own(tmp_path / "own.jsonl", "{\n" + json.dumps(rows)))[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"video": "a", "caption": "x", "caption": "y"}', "line 2: not valid JSON: key 'caption' is given twice"),
        ('{"video": "a", "caption": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 2: not valid JSON: it is nested too deeply"),
        ('{"video": "a", "caption": ' + "[" * 99 + "]" * 99 + "}", "line 2: caption: nested too deeply"),
        ('{"video": ' + "9" * 5000 + ', "caption": "x"}', "line 2: not valid JSON: a number has more than 4,300 digits"),
        ('{"video": NaN, "caption": "x"}', "line 2: video: a number instead of a text"),
    ],
)
def test_odd_json_values_are_reported(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(f'{{"video": "b", "caption": "x"}}\n{line}\n')
    with pytest.raises(DataError) as error:
        read_corpus(Corpus(media="video", train=str(path), root=str(tmp_path)))
    assert words in str(error.value)


# --- keys, encodings and other files --------------------------------------------------------------------------------


def test_an_unknown_key_is_reported_once_with_the_keys_that_count(tmp_path: Path) -> None:
    rows = [{"split": split, "video_id": f"v{n}", "desc": ["a box", "again"]} for n, split in enumerate(SPLITS * 20)]
    (fault,) = faults(own(tmp_path / "own.json", json.dumps(rows)))[:1]
    assert "row 1: key 'caption' or 'text' or 'name' or 'sentence' or 'description' is missing" in fault
    assert "the row has 'split', 'video_id', 'desc'; rename the right key (and 19 more rows)" in fault
    assert len(faults(own(tmp_path / "own.json", json.dumps(rows)))) == 1


def test_missing_answers_are_reported_once(tmp_path: Path) -> None:
    rows = [{"split": "train", "video": f"v{n}", "question": "what moves ?"} for n in range(4)]
    rows[0]["answer"] = "a dog"  # if no row has one, the answers are taken for hidden
    with pytest.raises(DataError) as error:
        read_dataset(own(tmp_path / "own.json", json.dumps(rows), "qa"), "train")
    (fault,) = str(error.value).splitlines()
    assert "row 2: key 'answer' is missing" in fault and "(and 2 more rows)" in fault


@pytest.mark.parametrize("name", ["own.csv", "own.jsonl", "own.json"])
@pytest.mark.parametrize(("encoding", "words"), [("utf-16", "UTF-16"), ("latin-1", "line 2: not UTF-8 (byte 0xe9)")])
def test_another_encoding_is_named_with_its_line(tmp_path: Path, name: str, encoding: str, words: str) -> None:
    start = "split,video,caption" if name.endswith("csv") else "["
    lines = [start, "train,a,caf\u00e9"] if name.endswith("csv") else ["{}" if name.endswith("jsonl") else "[", '{"a": "é"}']
    text = faults(own(tmp_path / name, ("\n".join(lines) + "\n").encode(encoding)))[0]
    assert words in text or (name == "own.json" and "not UTF-8" in text)


def test_known_missing_and_mapping_may_be_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "known_missing.txt").write_bytes("a\ncafé\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"known_missing\.txt: line 2: not UTF-8"):
        known_missing(tmp_path)
    (tmp_path / "known_missing.txt").write_bytes(b"\xef\xbb\xbfa.mp4\r\nb\r\n")
    assert {"a", "b"} <= known_missing(tmp_path)


def test_msrvtt_sentences_of_unlisted_videos_are_not_lost(tmp_path: Path) -> None:
    content = {
        "videos": [{"video_id": "a", "split": "train"}, {"video_id": "b", "split": "?"}],
        "sentences": [{"video_id": "c", "caption": "x"}],
    }
    found = "\n".join(faults(own(tmp_path / "own.json", json.dumps(content))))
    assert "video 2: split: '?' must be train, val or test" in found and "sentence 1: 'c' is not one of the `videos`" in found


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_files_are_found_in_another_unicode_form(tmp_path: Path, form: str) -> None:
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    for name in ("café.mp4", "été/naïve.avi", "a.mp4"):
        path = tmp_path / unicodedata.normalize(form, name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    folder = MediaFolder(tmp_path, "video")
    for name in ("café", "café.mp4", "été/naïve", "a"):
        assert folder.path(unicodedata.normalize(other, name)).is_file()
        assert folder.path(unicodedata.normalize(form, name)).is_file()
    (tmp_path / unicodedata.normalize(other, "café.mp4")).touch()  # the exact name comes first
    exact = MediaFolder(tmp_path, "video").path(unicodedata.normalize(other, "café"))
    assert exact.name == unicodedata.normalize(other, "café.mp4")


def test_names_with_backslashes_dashes_and_dots_are_found(tmp_path: Path) -> None:
    names = ["-4wsuPCjDBc_5_15.avi", "--abc.mp4", "Track 2.0 (Clean Version).mp4", "22.05.gif"]
    for name in names:
        (tmp_path / "YouTubeClips" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "YouTubeClips" / name).touch()
    folder = MediaFolder(tmp_path, "video")
    assert folder.path("YouTubeClips\\-4wsuPCjDBc_5_15").name == names[0]
    assert [MediaFolder(tmp_path / "YouTubeClips", "video").path(name.rpartition(".")[0]).name for name in names] == names


def test_odd_paths_are_absent_but_never_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "a.mp4").write_bytes(b"x")
    folder = MediaFolder(tmp_path, "video")
    names = ["loop", "gone", "x" * 300, "y" * 300 + "/z", "../../../../etc/passwd", "loop.mp4/a"]
    paths = [folder.path(name) for name in names]
    assert missing_paths([*paths, tmp_path / "a.mp4"]) >= set(paths[:4])
    for name, words in (("loop", "symbolic links"), ("gone", "broken link"), ("x" * 300, "name too long")):
        with pytest.raises(DataError, match=f"(?i){words}"):
            read_frames(folder.path(name), 2, None)


# --- mutated files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", range(0, 100, 20))
def test_mutated_files_are_read_or_reported_without_loss(tmp_path: Path, start: int) -> None:
    failures = {seed: wrong for seed in range(start, start + 20) if (wrong := try_file(seed, tmp_path / str(seed))[0])}
    assert not failures, f"repeat with `python -m tests.data.annotations.fuzz --only {next(iter(failures))}`: {failures}"


@pytest.mark.slow
def test_two_thousand_mutated_files_are_read_or_reported_without_loss(tmp_path: Path) -> None:
    failures = {seed: wrong for seed in range(1000, 3000) if (wrong := try_file(seed, tmp_path / str(seed))[0])}
    assert not failures, failures
