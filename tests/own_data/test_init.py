"""`alpro data init`: from a folder to parameters and commands that work; bad input is refused before anything is written."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alpro.cli.main import app
from alpro.config import load
from alpro.data.annotations.read import read_answers, read_dataset
from alpro.data.validation.check import check_set
from alpro.errors import AlproError, OutputError
from alpro.own_data import init as module
from alpro.own_data.init import Options, Outcome, init

from .conftest import COLOURS, COUNT, ROOT, write_captions

SPLITS = ("train", "val", "test")


def prepare(folder: Path, **options: Any) -> Outcome:
    """Run `alpro data init` in this process."""
    return init(Options(folder, workers=0, **({"name": "mine"} | options)))


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, without the cache of probes."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".state" not in path.parts}


def write_questions(folder: Path) -> Path:
    """Write a JSON list of two questions a video."""
    rows = [
        {"file": f"clip{n}", "Question": question, "Answer": answer}
        for n in range(COUNT)
        for question, answer in (("what colour is it ?", COLOURS[n % 3]), ("how many bars ?", "one"))
    ]
    (folder / "qa.json").write_text(json.dumps(rows))
    return folder / "qa.json"


def test_captions_become_a_dataset_that_the_checks_pass(clips: Path, project: Path) -> None:
    write_captions(clips)
    (clips / "broken.mp4").write_text("<html>")
    outcome = prepare(clips)
    params = load()
    records = [record for split in SPLITS for record in read_dataset(params.datasets["mine"], split)]
    assert [len(read_dataset(params.datasets["mine"], split)) for split in SPLITS] == [9, 1, 2]
    assert {record.path for record in records} == set(clips.rglob("*.avi"))
    assert sum(len(record.captions) for record in records) == 2 * COUNT
    assert check_set(params, "mine").metrics["errors"] == 0
    assert "broken.mp4" in outcome.text() and "broken.mp4\t" in Path("data/mine/txt/left_out.tsv").read_text()
    assert params.finetune["mine"].batch_size <= 9 and params.model.vocab_size > 100


def test_questions_become_a_dataset_with_the_answers_of_its_training_rows(clips: Path, project: Path) -> None:
    write_questions(clips)
    outcome = prepare(clips)
    dataset = load().datasets["mine"]
    assert dataset.task == "qa" and set(read_answers(dataset)) == {"one", *COLOURS}
    assert check_set(load(), "mine").metrics["errors"] == 0
    assert shlex.split(outcome.commands[-1])[1] == "ask"


def test_commands_are_three_lines_that_a_shell_reads_and_the_command_line_knows(clips: Path, project: Path) -> None:
    write_captions(clips)
    commands = [shlex.split(command) for command in prepare(clips).commands]
    assert [Path(words[0]).name for words in commands] == ["alpro", "dvc", "alpro"]
    assert commands[0][1:] == ["data", "check", "mine"] and commands[1][1:] == ["repro", "evaluate@mine"]
    assert Path(commands[2][2]).is_file() and " " in commands[2][2], "the name of the folder has a space"
    assert CliRunner().invoke(app, commands[0][1:]).exit_code == 0
    missing = CliRunner().invoke(app, commands[2][1:])
    assert missing.exit_code and "models/mine/finetune/mine" in str(missing.exception), "it is not trained yet"


def test_same_folder_and_seed_give_the_same_bytes_and_an_edited_table_is_kept(clips: Path, project: Path) -> None:
    write_captions(clips)
    prepare(clips, minutes=1000)  # as many epochs on every run, however busy the machine is
    before = files(project)
    prepare(clips, minutes=1000)
    changed = {name for name, content in files(project).items() if before.get(name) != content}
    assert {Path(name).suffix for name in changed} <= {".yaml"}, "only the estimate of the time may differ"
    table = Path("data/mine/txt/annotations.csv")
    table.write_text(table.read_text() + "train,clip0.avi,one more\n")
    with pytest.raises(OutputError, match="data/mine/txt: contains files that this command did not write"):
        prepare(clips)


def test_folder_in_the_project_is_named_relative_to_it(clips: Path, project: Path) -> None:
    shutil.copytree(clips, "data/mine/videos")
    write_captions(Path("data/mine"))
    outcome = init(Options(Path("data/mine"), workers=0))
    assert load().datasets["mine"].videos == "data/mine" and "mine: 12 readable videos" in outcome.text()
    init(Options(Path("data/mine"), workers=0))  # its own table is not taken for the user's


def test_table_with_splits_keeps_them(clips: Path, project: Path) -> None:
    rows = [(f"clip{n}", "test" if n < 3 else "training") for n in range(COUNT)]
    (clips / "t.csv").write_text("video,split,caption\n" + "".join(f"{v},{s},bar {v}\n" for v, s in rows))
    prepare(clips)
    with Path("data/mine/txt/annotations.csv").open() as table:
        splits = {Path(row["video"]).stem: row["split"] for row in csv.DictReader(table)}
    assert {video for video, split in splits.items() if split == "test"} == {"clip0", "clip1", "clip2"}
    assert list(splits.values()).count("val") == 1


def test_without_texts_a_table_to_fill_in_is_written_once_and_used_when_filled(clips: Path, project: Path) -> None:
    outcome = prepare(clips)
    table = Path("data/mine/captions.csv")
    assert len(table.read_text().splitlines()) == 1 + COUNT and "no model is here yet" in outcome.text()
    assert len(outcome.commands) == 3 and not Path("data/mine/txt").exists()
    unfilled = files(project)
    with pytest.raises(AlproError, match="no row has a text for a readable video; fill in caption"):
        prepare(clips)
    assert files(project) == unfilled

    rows = [line + (f"bar number {n}" if n < 6 else "") for n, line in enumerate(table.read_text().splitlines()[1:])]
    table.write_text("video,caption\n" + "\n".join(rows) + "\n")
    filled = table.read_text()
    command = shlex.split(outcome.commands[1].split("#")[0])
    assert CliRunner().invoke(app, [*command[1:], "--workers", "1"]).exit_code == 0
    assert table.read_text() == filled
    assert sum(len(read_dataset(load().datasets["mine"], split)) for split in SPLITS) == 6
    assert "has no text" in Path("data/mine/txt/left_out.tsv").read_text()


def test_without_texts_the_newest_model_of_this_project_searches(clips: Path, project: Path) -> None:
    for name, task in (("a/finetune/x", "retrieval"), ("a/finetune/y", "qa"), ("a/pretrain", "pretrain")):
        Path("models", name).mkdir(parents=True)
        Path("models", name, "config.json").write_text(json.dumps({"task": task}))
    outcome = prepare(clips, task="qa")
    assert Path("data/mine/questions.csv").read_text().startswith("video,question,answer\n")
    assert [shlex.split(command)[1] for command in outcome.commands] == ["index", "search", "data"]
    assert all("models/a/finetune/x" in command for command in outcome.commands[:2])


def test_start_of_params_is_joined_by_three_entries(clips: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that params.yaml starts from: the dataset joins the recipe instead of replacing it."""
    from alpro.checkpoints.files import save_checkpoint
    from alpro.data.text.tokenizer import train_vocabulary
    from alpro.models import build_model

    params = load()
    train_vocabulary(["a red bar moves to the left 1 2 3 times"], Path("models/sample/text"), params.model.vocab_size)
    model = build_model("retrieval", num_frames=4, config=params.model)
    save_checkpoint("models/sample/pretrain", model, {}, {"tokenizer": "models/sample/text"})
    write_captions(clips)
    prepare(clips, start="models/sample/pretrain", tokenizer=Path("models/sample/text"))
    joined = load()
    assert list(joined.datasets)[-1] == "mine" and len(joined.datasets) == 5 and joined.model == params.model
    assert joined.evaluate["mine"].checkpoint == "models/sample/finetune/mine" and joined.finetune["mine"].num_frames == 4


def test_start_that_params_do_not_have_becomes_a_recipe_with_its_sizes(clips: Path, project: Path) -> None:
    from alpro.checkpoints.files import save_checkpoint
    from alpro.config import Model
    from alpro.data.text.tokenizer import train_vocabulary
    from alpro.models import build_model

    train_vocabulary(["a red bar moves to the left 1 2 3 times"], "vocabulary", 120)
    sizes = Model(image_size=32, patch_size=16, width=128, heads=2, intermediate=64, vision_layers=1, text_layers=1,
                  fusion_layers=1, embed_dim=16, vocab_size=120, max_positions=48)  # fmt: skip
    save_checkpoint("other", build_model("retrieval", num_frames=2, config=sizes), {}, {"tokenizer": "vocabulary"})
    write_captions(clips)
    prepare(clips, start="other")
    params = load()
    assert (params.recipe, params.init.finetune, params.text.tokenizer) == ("mine", "other", "other/tokenizer")
    assert params.model == sizes and params.finetune["mine"].num_frames == 2


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda f: None, {"name": "a b"}, "--name 'a b': use letters"),
        (lambda f: None, {"name": "msvd_qa"}, "is the name of a published set"),
        (lambda f: shutil.rmtree(f), {}, "no such folder"),
        (lambda f: [path.unlink() for path in f.rglob("*.avi")], {}, "contains no videos"),
        (lambda f: [path.write_text("x") for path in f.rglob("*.avi")], {}, "none of its 12 videos can be read; the first is"),
        (lambda f: (f / "texts.csv").write_text("video,caption\nclip0,a\nclip1,b\nclip2,c\n"), {}, "3 videos have texts"),
        (lambda f: None, {"start": "models/none"}, "models/none: no such checkpoint"),
        (lambda f: None, {"tables": [Path("none.csv")]}, "none.csv: not found"),
        (lambda f: None, {"params": Path("none.yaml")}, "none.yaml: not found; run this in the project's folder"),
        (lambda f: None, {"task": "qa", "tables": [Path("../my clips/texts.csv")]}, "has no column question and answer"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(spoil, options, message, clips, project) -> None:
    write_captions(clips)
    spoil(clips)
    before = files(project)
    with pytest.raises(AlproError) as error:
        prepare(clips, **options)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert files(project) == before


def test_answers_that_no_training_question_has_are_refused(clips: Path, project: Path) -> None:
    rows = "".join(f"clip{n},what is it ?,sentence number {n},{'train' if n < 4 else 'test'}\n" for n in range(COUNT))
    (clips / "t.csv").write_text("video,question,answer,split\n" + rows)
    with pytest.raises(AlproError, match="of 12 answers occur in no training question"):
        prepare(clips)


def test_commands_name_the_programs_of_an_environment_that_is_not_activated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert module._command("alpro", "ask", "my video.mp4", "-x") == "alpro ask 'my video.mp4' ./-x"
    monkeypatch.delenv("VIRTUAL_ENV")
    program = Path(sys.executable).parent / "dvc"
    inside = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
    assert module._command("dvc", "repro") == f"{shlex.quote(str(inside))} repro"


@pytest.mark.slow  # three trainings through DVC
@pytest.mark.parametrize("kind", ["captions", "questions", "none"])
def test_folder_becomes_a_trained_and_evaluated_model(kind: str, clips: Path, tmp_path: Path) -> None:
    root, programs = tmp_path / "clone", Path(sys.executable).parent
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(root)], check=True)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    start = ["python", "-m", "alpro", "data", "init", str(clips), "--name", "mine", "--minutes", "0.2"]
    if kind == "none":
        run(*start)
        table = root / "data/mine/captions.csv"
        lines = table.read_text().splitlines()
        table.write_text("\n".join([lines[0], *(f"{line}a {COLOURS[n % 3]} bar" for n, line in enumerate(lines[1:]))]) + "\n")
    else:
        {"captions": write_captions, "questions": write_questions}[kind](clips)
    commands = [shlex.split(line) for line in run(*start).split("next:\n")[1].splitlines()]
    run("python", "-m", "alpro", *commands[0][1:])
    run("dvc", *commands[1][1:])
    printed = run("python", "-m", "alpro", *commands[2][1:])
    metrics = json.loads((root / "reports/evaluate/mine/metrics.json").read_text())
    assert ("overall_acc" if kind == "questions" else "text2video") in metrics and " %  " in printed
