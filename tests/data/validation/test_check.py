"""A good custom set passes; problems of a bad one are listed by row with a remedy. `data probe` lists each video."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from alpro.cli.main import main
from alpro.config import load
from alpro.data.media.probe_table import COLUMNS, probe_folder, table
from alpro.data.text.tokenizer import train_vocabulary
from alpro.data.validation.check import REMEDIES, check_set
from alpro.data.validation.limits import limits_of
from alpro.errors import ConfigError, DataError
from tests.data.clips import make_video

ROOT = Path(__file__).parents[3]
VIDEOS = ROOT / "tests" / "videos"
MANIFEST = {entry["file"]: entry for entry in json.loads((VIDEOS / "manifest.json").read_text())}
REFUSED = {"decord_corrupted.mp4", "made_empty_0bytes.mp4", "made_text_not_a_video.mp4", "small_Mpeg4.mp4"}
TOKENS = 80  # of the vocabulary
GOOD = """split,video,question,answer
train,a.avi,what is it?,dog
train,a.avi,is it red?,"yes, it is"
train,b,who runs?,dog
val,c,what is it?,dog
test,d.avi,what is it?,dog
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A custom set `own` with one table of questions, declared in params.yaml with tiny's settings of msvd_qa."""
    monkeypatch.chdir(tmp_path)
    train_vocabulary(["what is it", "who runs"], "vocabulary", TOKENS)
    (tmp_path / "own").mkdir()
    for number, name in enumerate("abcd"):
        make_video(tmp_path / "own" / f"{name}.avi", frames=24, hue=40 * number)
    raw = yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text())
    raw["text"]["tokenizer"], raw["model"]["vocab_size"] = "vocabulary", TOKENS
    raw["datasets"]["own"] = {"task": "qa", "annotations": "own.csv", "videos": "own"}
    raw["finetune"]["own"] = raw["finetune"]["msvd_qa"]
    raw["evaluate"]["own"] = raw["evaluate"]["msvd_qa"] | {"checkpoint": "models/tiny/finetune/own"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "own.csv").write_text(GOOD)
    return tmp_path


def alpro(*arguments):
    return subprocess.run([sys.executable, "-m", "alpro", *arguments], capture_output=True, text=True, check=False)


def test_valid_custom_set_passes(own, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = alpro("data", "check", "own")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "warning: own.csv: line 3: a: the type is not one of what, who, how, where, when (is); "
        "it counts only towards the overall accuracy; set `answer_type` to count it under a type",
        "own: train: 3 rows, 2 videos",
        "own: val: 1 rows, 1 videos",
        "own: test: 1 rows, 1 videos",
        "own: passed, 1 warnings",
    ]


def test_json_report_has_every_problem_with_its_remedy(own, monkeypatch, capsys):
    (own / "own.csv").write_text(GOOD + "test,e,what is it?,dog\n")
    monkeypatch.setattr(sys, "argv", ["alpro", "data", "check", "own", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    stdout, stderr = capsys.readouterr()
    report = json.loads(stdout)
    assert ended.value.code == 2 and stderr.splitlines()[-1].startswith("alpro: own: ")
    assert report["set"] == "own" and report["errors"] == len([p for p in report["problems"] if p["severity"] == "error"]) > 0
    assert {problem["video"]: problem["remedy"] for problem in report["problems"]}["e"].startswith("replace it with")


def test_each_fault_is_reported_with_line_video_and_remedy(own):
    bad = GOOD + "trial,a,what is it?,dog\ntest,a,what is it?,dog\ntest,c,\nval,c,,dog\n"
    bad += "test,e,what is it?,dog\ntest,d,what is this?,cow\n"
    (own / "own.csv").write_text(bad)
    whole = (own / "own" / "d.avi").read_bytes()
    (own / "own" / "d.avi").write_bytes(whole[: len(whole) * 2 // 3])
    report = check_set(load(), "own")
    with pytest.raises(DataError, match=r"own: \d+ errors, \d+ warnings; fix the errors"):
        report.raise_for_errors()
    reported = report.lines()
    for expected in (
        "error: own.csv: line 7: split: 'trial' must be train, val or test; fix it",
        "error: own.csv: line 9: 3 cells, but 4 columns are named; quote cells that contain ','",
        "error: own.csv: line 10: c: the question is empty; fill it in, or remove the row",
        "error: own.csv: line 8: a: the video is in more than one split; keep the video in one split",
        "error: own.csv: line 11: e: not found (own/e.avi); replace it with an intact copy, or remove its rows",
        "warning: own.csv: line 12: d: the answer is not in the answer list, so it can be neither learned nor predicted (cow); "
        "add it to the answer list, or remove the row",
    ):
        assert reported.count(expected) == 1, (expected, reported)
    (cut,) = [text for text in reported if text.startswith("error: own.csv: line 6: d: ")]
    assert "the file was cut" in cut


def test_video_that_crashes_the_decoder_is_reported_and_the_check_continues(own, monkeypatch):
    (own / "sitecustomize.py").write_text(  # in the worker processes, not in this one
        "import os, alpro.data.media.probe as v\n"
        "real = v.probe\n"
        "v.probe = lambda name, *a, **k: os.abort() if str(name).endswith('d.avi') else real(name, *a, **k)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{own}{os.pathsep}{ROOT}")
    report = check_set(load(), "own")
    with pytest.raises(DataError, match="own: 1 errors"):
        report.raise_for_errors()
    (error,) = [line for line in report.lines() if line.startswith("error: ")]
    assert error.startswith("error: own.csv: line 6: d: it crashes the decoder")


def test_undeclared_set_suggests_nearest_name(own):
    with pytest.raises(ConfigError, match="has 'owm'; did you mean 'own'"):
        check_set(load(), "owm")


def test_each_check_has_a_remedy(own):
    from alpro.data.validation.suites import rows_suite, videos_suite  # here, as Great Expectations takes seconds to import

    params = load()
    for name in ("own", "msrvtt_ret", *params.corpora):
        limits = limits_of(params, name)
        checks = [*rows_suite(limits).expectations, *videos_suite(limits, "index.parquet").expectations]
        assert not {check.meta["check"] for check in checks} - set(REMEDIES)


def test_probe_table_has_each_videos_frames_and_size_or_its_error():
    printed = table(probe_folder(VIDEOS, workers=1)).splitlines()
    assert printed[0].split() == list(COLUMNS)
    rows = {line.split()[0]: line.split(maxsplit=7) for line in printed[1:]}
    assert set(rows) == set(MANIFEST)
    for file, entry in MANIFEST.items():
        _, readable, frames, _, size, rotation, decoder, *reason = rows[file]
        if file in REFUSED:
            assert (readable, decoder) == ("no", "none") and reason, file
            continue
        width, height = entry["size"] if entry["rotation"] in (0, 180, -180) else entry["size"][::-1]
        assert (readable, frames, size) == ("yes", str(entry["n_frames"]), f"{width}x{height}"), file
        assert (rotation, reason) == (str(-entry["rotation"] % 360), []) and decoder in ("decord", "pyav"), file


def test_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(DataError, match="contains no videos"):
        probe_folder(tmp_path)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        probe_folder(tmp_path / "nowhere")
