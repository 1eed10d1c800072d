"""The four official evaluations from the command line: official output folders, recipe `official`, one or more processes."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alpro.checkpoints.files import export_official
from alpro.cli.main import app
from alpro.errors import CheckpointError
from alpro.evaluation.official import find_checkpoint, official_preprocessing
from tests.evaluation.conftest import OTHER_LABELS
from tests.training.processes import ROOT, both_backends

LIKE = {"msrvtt_ret": "msrvtt_ret", "didemo_ret": "msrvtt_ret", "msrvtt_qa": "msvd_qa", "msvd_qa": "msvd_qa"}
# log/args.json of a released training, with the sizes of the small models.
ARGUMENTS = {"num_frm": 4, "max_txt_len": 12, "frm_sampling_strategy": "rand", "crop_img_size": 32, "fp16": 0}


@pytest.fixture(scope="module")
def home(project: Path, retrieval_model: Any, qa_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the recipes, and output/downstreams/<task>/public of every task."""
    home = tmp_path_factory.mktemp("home")
    (home / "recipes").symlink_to(ROOT / "recipes")
    for task, like in LIKE.items():
        folder = home / "output/downstreams" / task / "public"
        for step in ("best", "40", "120"):
            export_official(retrieval_model if like == "msrvtt_ret" else qa_model, folder / f"ckpt/model_step_{step}.pt")
        (folder / "log").mkdir()
        (folder / "log/args.json").write_text(json.dumps(ARGUMENTS))
        shutil.copytree(project / like, home / task)
    return home


def arguments(home: Path, project: Path, videos: Path, task: str, step: str, recipe: str = "official") -> list[str]:
    answers = ["--answers", f"{task}/train_ans2label.json"] if task.endswith("qa") else []
    return [
        *("evaluate", "--task", task, "--checkpoint", f"output/downstreams/{task}/public", "--step", step),
        *("--annotations", f"{task}/test.jsonl", "--videos", str(videos), "--tokenizer", str(project / "text")),
        *("--batch-size", "16", "--recipe", recipe, *answers),
    ]


def printed(output: str) -> dict[str, Any]:
    (line,) = [line for line in output.splitlines() if line.startswith("{")]
    return ast.literal_eval(line)


@pytest.mark.parametrize("task", LIKE)
def test_official_folder_is_evaluated_at_each_step(home, project, records, monkeypatch, task) -> None:
    monkeypatch.chdir(home)
    for step, meant in (("best", "best"), ("last", "120"), ("40", "40")):
        done = CliRunner().invoke(app, arguments(home, project, records[0].path.parent, task, step))
        assert done.exit_code == 0, done.output
        place = home / f"output/downstreams/{task}/public/results_test/step_{meant}"
        figures, used = json.loads((place / "metrics.json").read_text()), json.loads((place / "args.json").read_text())
        assert printed(done.output) == figures
        assert (place / "results.json").is_file() and (place / "scores.json").is_file() == task.endswith("ret")
        assert (used["frames"], used["num_frames"], used["max_text_tokens"]) == ("uniform_floor", 4, 12)
        assert used["batch_pairs"] == 16 and used["round_scores"] == (4 if task.endswith("ret") else None)
        if task.endswith("qa"):
            assert set(figures["ratios"]) == {f"{kind}_ratio" for kind in ("what", "who", "how", "where", "when")}
            assert sum(count for _, count in figures["ratios"].values()) == 20
        else:
            assert set(figures["text2video"]) == {"r1", "r5", "r10", "medianR", "meanR"}


@both_backends
@pytest.mark.slow
@pytest.mark.parametrize("task", ["didemo_ret", "msvd_qa"])
def test_processes_under_horovodrun_or_torchrun_print_the_same_as_one(
    home, project, records, monkeypatch, task, backend
) -> None:
    """Run `alpro evaluate` on three; recipe official also counts the question that pads 20 to a multiple of 3."""
    monkeypatch.chdir(home)
    for recipe, counted in (("official", 21), ("paper", 20)):
        command = arguments(home, project, records[0].path.parent, task, "best", recipe)
        alone = CliRunner().invoke(app, command)
        assert alone.exit_code == 0, alone.output
        horovodrun = str(Path(sys.executable).with_name("horovodrun"))
        starter = {
            "horovod": [horovodrun, "--gloo", "--gloo-timeout-seconds", "300", "-np", "3", sys.executable],
            "torch": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"],
        }[backend]
        many = subprocess.run(
            [sys.executable, *starter, "-m", "alpro", *command],
            cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert many.returncode == 0, many.stderr
        found = printed("\n".join(line.partition(">:")[2] or line for line in many.stdout.splitlines()))
        if task == "didemo_ret":
            assert found == printed(alone.output)
        else:
            assert sum(count for _, count in found["ratios"].values()) == counted
            if recipe == "paper":
                assert found == printed(alone.output)


def test_frame_sampling_of_the_official_folder_is_kept() -> None:
    assert official_preprocessing({"frm_sampling_strategy": "headtail"}) == {"eval_frames": "headtail"}
    assert official_preprocessing({"frm_sampling_strategy": "rand", "num_frm": 8}) == {"num_frames": 8}


def test_step_other_than_the_files_is_refused(home: Path, project: Path) -> None:
    file = home / "output/downstreams/msvd_qa/public/ckpt/model_step_40.pt"
    assert find_checkpoint(file, "40").step == find_checkpoint(file).step == "40"
    with pytest.raises(CheckpointError, match="is of step 40, not 120"):
        find_checkpoint(file, "120")
    with pytest.raises(CheckpointError, match="is of step best, not 7"):
        find_checkpoint(project / "models/msvd_qa", "7")


def test_answer_list_of_another_dataset_is_refused(home, project, records, monkeypatch) -> None:
    monkeypatch.chdir(home)
    many = OTHER_LABELS | {f"word{n}": n for n in range(len(OTHER_LABELS), 1600)}
    (home / "other.json").write_text(json.dumps(many))
    command = arguments(home, project, records[0].path.parent, "msvd_qa", "best")
    done = CliRunner().invoke(app, [*command[:-1], str(home / "other.json")])
    assert done.exit_code != 0 and "the answer list has 1600 answers, the checkpoint's head 1500 classes" in str(done.exception)
