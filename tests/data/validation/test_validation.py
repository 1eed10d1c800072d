"""Validation reports each fault by name, writes equal bytes for equal data, and stops the stages that depend on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from alpro.config import Dataset, Params, parse
from alpro.data.sample.encode import write_image, write_video
from alpro.data.text.tokenizer import train_vocabulary
from alpro.data.validation import Problem, Summary, validate, validate_set
from alpro.data.validation.problems import problems_of
from alpro.data.validation.tables import read_tables
from alpro.errors import ConfigError, DataError
from alpro.files.outputs import MANIFEST

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "recipes" / "tiny.yaml"
TOKENS = 120  # of the vocabulary
WRITTEN = ["index.html", "index.parquet", "metrics.json", "params.json", "problems.jsonl", "rows.html", "videos.html"]


def film(path: Path, number: int, frames: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (frames, 32, 32, 3), np.uint8)
    write_video(path, pixels)


def lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def params_with(**changes: Any) -> Params:
    """Return recipe `tiny` with sections replaced; paths are relative to the working directory."""
    raw = yaml.safe_load(RECIPE.read_text())
    raw["model"]["vocab_size"] = TOKENS
    raw = raw | changes
    raw["text"] = {"tokenizer": "vocabulary"}
    return parse(raw)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    train_vocabulary(["a red ball moves left", "what does the dog do", "who runs"], "vocabulary", TOKENS)
    return tmp_path


def question(video: str, text: str = "what does the dog do?", answer: Any = "run", kind: str = "what") -> dict[str, Any]:
    return {"video_id": video, "question": text, "answer": answer, "answer_type": kind}


def good_qa(root: Path) -> None:
    splits = {"train": ["a", "b", "c"], "val": ["d"], "test": ["e", "f"]}
    for number, (split, name) in enumerate((s, n) for s, names in splits.items() for n in names):
        film(root / "videos" / f"{name}.avi", number)
        with (root / f"{split}.jsonl").open("a") as file:
            file.write(json.dumps(question(name)) + "\n")
    (root / "train_ans2label.json").write_text(json.dumps({"run": 0, "dog": 1}))


def qa_params(**finetune: Any) -> Params:
    raw = yaml.safe_load(RECIPE.read_text())
    datasets = raw["datasets"] | {"msvd_qa": {"task": "qa", "annotations": "qa", "videos": "qa/videos"}}
    raw["finetune"]["msvd_qa"] |= finetune
    return params_with(datasets=datasets, finetune=raw["finetune"])


def problems_by_check(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Read problems.jsonl; return the problems by check."""
    problems: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / "problems.jsonl").read_text().splitlines():
        problem = json.loads(line)
        problems.setdefault(problem["check"], []).append(problem)
    return problems


@pytest.fixture
def bad_qa(here: Path) -> Path:
    """A question-answering set with one fault of each kind."""
    root = here / "qa"
    good_qa(root)
    whole = (root / "videos" / "b.avi").read_bytes()
    (root / "videos" / "b.avi").write_bytes(whole[: len(whole) * 2 // 3])  # truncated
    (root / "videos" / "e.avi").unlink()  # missing
    film(root / "videos" / "f.avi", 0)  # the bytes of a.avi, which is in train
    film(root / "videos" / "c.avi", 2, frames=2)  # fewer frames than are read
    with (root / "test.jsonl").open("a") as file:
        for row in (
            question("a") | {"id": 6},  # a video of train
            question("f", text="  "),
            question("f", answer="<b>cat</b>") | {"id": 7},
            question("f", kind="why") | {"id": 7},
            question("f", answer=["run"]),
            {"question": "who runs?", "answer": "dog", "answer_type": "who"},
            question("f", text="what does the dog do? " * 20),
        ):
            file.write(json.dumps(row) + "\n")
    return root


def test_each_fault_is_reported_with_file_line_and_video(bad_qa: Path) -> None:
    with pytest.raises(DataError) as raised:
        validate(qa_params(), ["msvd_qa"], "out")
    folder = Path("out/msvd_qa")
    problems = problems_by_check(folder)

    def places(check: str) -> list[tuple[str | None, ...]]:
        return [(p.get("file"), p.get("place"), p.get("video")) for p in problems[check]]

    test, train = "qa/test.jsonl", "qa/train.jsonl"
    assert places("readable_in_training") == [(train, "line 2", "b")]
    assert "frames" in problems["readable_in_training"][0]["message"] or "cut" in problems["readable_in_training"][0]["message"]
    assert places("enough_readable_in_training") == [(None, None, None)]
    assert places("readable") == [(test, "line 1", "e")]
    assert problems["readable"][0]["message"] == "not found" and problems["readable"][0]["value"] == "qa/videos/e.avi"
    assert places("splits_disjoint") == [(train, "line 1", "a"), (test, "line 3", "a")]
    assert places("content_in_one_split") == [(train, "line 1", "a"), (test, "line 2", "f"), (test, "line 3", "a")]
    assert places("enough_frames") == [(train, "line 3", "c")]
    assert places("question_not_empty") == [(test, "line 4", "f")]
    assert places("answer_in_list") == [(test, "line 5", "f"), (test, "line 7", "f")]
    assert problems["answer_in_list"][0]["value"] == "<b>cat</b>"
    assert places("type_known") == [(test, "line 6", "f")]
    assert places("id_once") == [(test, "line 5", "f"), (test, "line 6", "f")]
    assert places("answer_given") == [(test, "line 7", "f")]
    assert places("video_given") == [(test, "line 8", None)]
    assert places("within_token_limit") == [(test, "line 9", "f")]
    assert {p["severity"] for p in problems["answer_in_list"] + problems["enough_frames"]} == {"warning"}
    assert "qa/test.jsonl: line 1: e: not found" in str(raised.value)
    assert not (folder / "passed.json").exists()

    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["splits"]["train"] == {
        "rows": 3, "videos": 3, "over_token_limit": 0.0, "answers_in_list": 1.0, "types": {"what": 3}, "unreadable": 1,
        "fewer_frames": 0.333333,
    }  # fmt: skip
    assert figures["errors"] == sum(p["severity"] == "error" for ps in problems.values() for p in ps)

    pages = {name: (folder / f"{name}.html").read_text() for name in ("index", "rows", "videos")}
    assert not [name for name, page in pages.items() if "http://" in page or "https://" in page or "<script" in page]
    assert "<b>cat" not in pages["rows"] and "&lt;b&gt;cat" in pages["rows"], "texts of the data are not markup"
    assert "splits_disjoint (error)" in pages["videos"] and 'class="failed"' in pages["index"]


def test_same_data_give_the_same_bytes(here: Path) -> None:
    good_qa(here / "qa")
    summary = validate_set(qa_params(), "msvd_qa", output="one", passed="one.json")
    assert summary.errors == 0
    (here / ".state").rename("elsewhere")
    validate_set(qa_params(), "msvd_qa", output="two", passed="two.json")
    assert sorted(path.name for path in Path("one").iterdir()) == [MANIFEST, *WRITTEN]
    for name in WRITTEN:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes(), name
    assert Path("one.json").read_bytes() == Path("two.json").read_bytes()


def test_record_of_success_depends_on_the_data_and_is_removed_on_failure(here: Path) -> None:
    good_qa(here / "qa")

    def passed() -> str:
        validate_set(qa_params(max_text_tokens=limit), "msvd_qa", output="out", passed="passed.json")
        return Path("passed.json").read_text()

    limit = 20
    before = passed()
    limit = 4  # warnings, and nothing else
    assert passed() == before and problems_by_check(Path("out"))["within_token_limit"]
    film(here / "qa" / "videos" / "a.avi", 77)
    assert passed() != before
    (here / "qa" / "videos" / "f.avi").unlink()
    with pytest.raises(DataError, match=r"f: not found"):
        passed()
    assert not Path("passed.json").exists() and Path("out/index.html").exists()


def test_evaluated_only_set_needs_no_training_videos(here: Path) -> None:
    good_qa(here / "qa")
    for name in "abcd":
        (here / "qa" / "videos" / f"{name}.avi").unlink()
    (here / "qa" / "val.jsonl").unlink()
    raw = yaml.safe_load(RECIPE.read_text())
    raw["evaluate"]["msvd_qa"]["checkpoint"] = "official.pt"
    params = params_with(datasets=qa_params().model_dump()["datasets"], evaluate=raw["evaluate"])
    assert validate(params, ["msvd_qa"], "out").errors == 0
    with pytest.raises(DataError, match=r"val\.jsonl: not found"):
        validate(qa_params(), ["msvd_qa"], "out")


def retrieval_params(sample: bool = True) -> Params:
    raw = yaml.safe_load(RECIPE.read_text())
    datasets = raw["datasets"] | {"msrvtt_ret": {"task": "retrieval", "annotations": "ret", "videos": "ret/videos"}}
    return params_with(datasets=datasets, **({} if sample else {"sample": None}))


def good_retrieval(root: Path) -> None:
    for split, names in {"train": "ab", "val": "c", "test": "de"}.items():
        lines(root / f"{split}.jsonl", [{"clip_name": name, "caption": f"a ball {name}"} for name in names])
        for name in names:
            film(root / "videos" / f"{name}.mp4", ord(name))


def test_ties_in_a_gallery_are_warnings(here: Path) -> None:
    root = here / "ret"
    good_retrieval(root)
    film(root / "videos" / "e.mp4", ord("d"))
    lines(root / "test.jsonl", [{"clip_name": name, "caption": "a ball"} for name in "de"])
    summary = validate(retrieval_params(), ["msrvtt_ret"], "out")
    problems = problems_by_check(Path("out/msrvtt_ret"))
    assert summary.errors == 0 and summary.warnings == 4
    assert [p["video"] for p in problems["test_captions_distinct"]] == ["d", "e"]
    assert [p["video"] for p in problems["test_content_distinct"]] == ["d", "e"]


def test_published_counts_are_checked_only_for_real_data(here: Path) -> None:
    good_retrieval(here / "ret")
    validate(retrieval_params(), ["msrvtt_ret"], "out")
    assert problems_by_check(Path("out/msrvtt_ret")) == {}
    validate(retrieval_params(sample=False), ["msrvtt_ret"], "out")
    problems = problems_by_check(Path("out/msrvtt_ret"))
    assert problems["published_test_rows"][0]["message"] == "the test split has 2 rows; 1000 are published"
    assert problems["published_test_videos"][0]["severity"] == "warning"


def test_known_missing_videos_are_skipped_and_counted(here: Path) -> None:
    good_retrieval(here / "ret")
    (here / "ret" / "videos" / "d.mp4").unlink()
    (here / "ret" / "known_missing.txt").write_text("# gone since 2019\nd\n")
    assert validate(retrieval_params(), ["msrvtt_ret"], "out").metrics["msrvtt_ret"]["known_missing"] == 1


def test_corpus_of_images_is_read_as_in_training(here: Path) -> None:
    root = here / "images"
    root.mkdir()
    for name in "abc":
        write_image(root / f"{name}.jpg", np.full((32, 32, 3), ord(name), np.uint8))
    whole = (root / "c.jpg").read_bytes()
    (root / "c.jpg").write_bytes(whole[: len(whole) // 2])
    Path("cc3m.json").write_text(
        json.dumps([{"image": f"{n}.jpg", "caption": ["a ball", ""] if n == "a" else "a dog"} for n in "abc"])
    )
    raw = yaml.safe_load(RECIPE.read_text())
    corpora = raw["corpora"] | {"cc3m": {"media": "image", "train": "cc3m.json", "root": "images"}}
    with pytest.raises(DataError, match=r"cc3m\.json: row 1: a: the caption is empty"):
        validate(params_with(corpora=corpora), ["cc3m"], "out")
    problems = problems_by_check(Path("out/cc3m"))
    assert [p["video"] for p in problems["readable_in_training"]] == ["c"]
    assert "enough_frames" not in problems


def test_broken_files_and_unknown_names_are_reported(here: Path) -> None:
    good_qa(here / "qa")
    (here / "qa" / "val.jsonl").write_text('{"video_id": "d", \n')
    (here / "qa" / "train_ans2label.json").write_text("[]")
    with pytest.raises(DataError) as raised:
        validate(qa_params(), ["msvd_qa"], "out")
    assert "qa/val.jsonl: line 1" in str(raised.value) and "train_ans2label.json: must be one object" in str(raised.value)
    with pytest.raises(ConfigError, match="did you mean 'msvd_qa'"):
        validate(qa_params(), ["msvd_q"], "out")


def test_captions_of_one_row_are_not_duplicate_ids(here: Path) -> None:
    lines(here / "ret" / "test.jsonl", [{"clip_name": "a", "caption": ["a dog", "a cat"], "sen_id": 3}])
    rows = read_tables(Dataset(task="retrieval", annotations="ret", videos="ret"), ["test"]).rows
    assert list(zip(rows["text"], rows["id"], strict=True)) == [("a dog", "3"), ("a cat", None)]


def test_vocabulary_of_another_size_than_the_models_is_refused(here: Path) -> None:
    good_qa(here / "qa")
    params = qa_params()
    params = params.model_copy(update={"model": params.model.model_copy(update={"vocab_size": TOKENS + 1})})
    with pytest.raises(DataError, match=r"vocabulary has 120 tokens, the model 121 \(model\.vocab_size\)"):
        validate_set(params, "msvd_qa", output="out", passed="passed.json")


def test_problem_list_is_truncated_with_full_count() -> None:
    table = pd.DataFrame(
        {name: [f"{name}{i}" for i in range(1203)] for name in ("split", "file", "place", "video", "path", "error")}
    )
    meta = {"check": "readable_in_training", "message": "cannot be read", "whole": False}
    config = SimpleNamespace(meta=meta, severity="warning", kwargs={"column": "path"})
    failed = {"unexpected_index_list": [{"n": i} for i in range(1203)]}
    outcome = SimpleNamespace(expectation_config=config, exception_info={}, success=False, result=failed)
    problems, counts = problems_of("a", SimpleNamespace(results=[outcome]), table)
    assert counts == {"readable_in_training": 1203} and len(problems) == 1001
    message = "1,203 problems, of which the first 1,000 are listed; index.parquet has all of them: cannot be read"
    assert problems[-1].message == message


def test_exception_lists_the_first_errors_and_counts_the_rest() -> None:
    problems = tuple(
        Problem("a", "error", "readable", "not found", file="f", place=f"line {i}", video=f"v{i}") for i in range(30)
    )
    with pytest.raises(DataError) as raised:
        Summary(problems, {"a": {"errors": 30, "warnings": 0}}).check()
    message = str(raised.value).splitlines()
    assert (
        message[0] == "30 errors in a:"
        and message[1] == "  f: line 0: v0: not found"
        and message[-1] == "  and 20 more"
        and len(message) == 12
    )


def test_stages_declare_the_code_and_outputs_of_validation() -> None:
    code = "import sys, alpro.data.text.tokenizer, alpro.data.validation.run, alpro.data.validation.docs\n"
    code += "print(*(m.__file__ for name, m in sys.modules.items() if name.startswith('alpro.data')))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    read = {Path(path).relative_to(ROOT).as_posix() for path in loaded} - {"alpro/data/__init__.py"}
    for name in ("validate", "validate_corpus"):
        stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]["do"]
        assert [path for path in sorted(read) if not any(f"{path}/".startswith(f"{dep}/") for dep in stage["deps"])] == []
        assert "alpro/data/sources" in stage["deps"]  # holds registry.yaml: files known to be missing
        declared = sorted(path for path in stage["outs"] if path.startswith("reports/"))
        assert declared == [f"reports/validate/${{key}}/{written}" for written in WRITTEN]
