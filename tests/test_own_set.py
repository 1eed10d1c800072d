"""Custom videos declared under `datasets:` pass through the unchanged pipeline, from conversion to the registry.

The clone has its own, empty DVC cache, so every counted stage really ran.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from alpro.data.media.probe import probe
from alpro.data.text.tokenizer import train_vocabulary
from tests.data.clips import make_video

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
RAN = re.compile(r"^Running stage '([^']+)'", re.MULTILINE)
SPLITS = {"train": 8, "val": 4, "test": 4}
VOCABULARY = 120  # tokens
COLOURS = ("red", "pink", "blue", "green")
LIKE = {"own_ret": "msrvtt_ret", "own_qa": "msvd_qa"}  # tiny's set whose settings the custom set uses
FIGURE = {"own_ret": "text2video", "own_qa": "overall_acc"}


def run(root: Path, *command: str) -> str:
    """Run a program, check that it succeeds, and return its output."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_TRACKING", "PREFECT_", "DVC_ROOT"))
    }
    names = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**kept, **names, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def make_own_set(root: Path) -> None:
    """Write videos, a table of captions, a table of questions, and the vocabulary of both."""
    (root / "originals").mkdir(parents=True)
    captions, questions = [], []
    names = [(split, f"{split}{number}") for split, size in SPLITS.items() for number in range(size)]
    for place, (split, name) in enumerate(names):
        make_video(root / "originals" / f"{name}.avi", frames=40, size=48, hue=13 * place)
        colour = COLOURS[place % len(COLOURS)]
        captions.append({"split": split, "video": name, "caption": f"a {colour} bar, the {place}th"})
        questions.append({"split": split, "video": name, "question": "what colour is it ?", "answer": colour})
    with (root / "captions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, captions[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(captions)
    (root / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    train_vocabulary([row["caption"] for row in captions] + ["what colour is it ?"], root / "vocabulary", VOCABULARY)


def declare(root: Path, names: Sequence[str], processes: int) -> None:
    """Write params.yaml: recipe tiny with only these sets, fine-tuned from scratch."""
    raw = yaml.safe_load((root / "recipes" / "tiny.yaml").read_text())
    raw["launch"] |= {"processes": processes, "start_timeout_s": 600}  # a busy machine is slow to start two
    raw["text"]["tokenizer"], raw["model"]["vocab_size"] = "data/own/vocabulary", VOCABULARY
    raw["init"]["finetune"] = "recipes/init/scratch.yaml"
    sets = {
        "own_ret": {"task": "retrieval", "annotations": "data/own/captions.csv", "videos": "data/own/videos"},
        "own_qa": {"task": "qa", "annotations": "data/own/questions.jsonl", "videos": "data/own/videos"},
    }
    raw["datasets"] = {name: sets[name] for name in names}
    raw["finetune"] = {name: raw["finetune"][LIKE[name]] for name in names}
    raw["evaluate"] = {name: raw["evaluate"][LIKE[name]] | {"checkpoint": f"models/tiny/finetune/{name}"} for name in names}
    raw["zeroshot"] = {}
    raw["convert"] = {"own": {"source": "data/own/originals", "output": "data/own/videos", "every": 2}}
    (root / "params.yaml").write_text(yaml.safe_dump(raw))


@pytest.mark.slow  # four or seven stages of DVC
@pytest.mark.parametrize(
    ("names", "processes"), [(("own_qa", "own_ret"), 1), (("own_qa",), 2)], ids=["two sets", "two processes"]
)
def test_custom_videos_pass_through_the_unchanged_pipeline(names: Sequence[str], processes: int, tmp_path: Path) -> None:
    root = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(root))
    make_own_set(root / "data" / "own")
    declare(root, names, processes)
    run(root, "dvc", "add", "--quiet", "data/own/originals")

    stages = [f"{stage}@{name}" for stage in ("validate", "finetune", "evaluate") for name in names]
    assert sorted(RAN.findall(run(root, "dvc", "repro", "report"))) == sorted(["convert@own", *stages, "report"])
    assert RAN.findall(run(root, "dvc", "repro", "report")) == []
    assert run(root, "git", "diff", "--name-only").split() == ["params.yaml"]
    copies = {probe(path).frames for path in (root / "data" / "own" / "videos").glob("*.mp4")}
    assert copies == {20}, "every other frame of 40"
    for name in names:
        folder = root / "reports" / "evaluate" / name
        assert FIGURE[name] in json.loads((folder / "metrics.json").read_text())
        rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        assert len([row for row in rows if row.get("direction") != "video2text"]) == SPLITS["test"]

    run(root, "git", "add", "--all")
    run(root, "git", "commit", "--quiet", "--message", "Own set")
    run(root, "python", "-m", "alpro", "register")
    for name in names:
        printed = run(root, "python", "-m", "alpro", "lineage", f"models:/alpro-{name}@candidate").splitlines()
        fields = dict(line.split(maxsplit=1) for line in printed if line.startswith("  ") and len(line.split()) > 1)
        assert fields["stage"] == f"finetune/{name}" and fields["validation"] == "passed"
        assert fields["commit"].startswith(run(root, "git", "rev-parse", "HEAD").strip()) and "CHANGED" not in fields["commit"]
