"""Inference on one video gives the evaluation's results; unusable input is reported in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alpro.checkpoints.files import export_official
from alpro.checkpoints.load import load_model
from alpro.cli.main import app
from alpro.data.annotations.records import Question, Record
from alpro.errors import CheckpointError, ConfigError, DataError
from alpro.evaluation.qa import evaluate_qa
from alpro.evaluation.retrieval import evaluate_retrieval
from alpro.serving import ask, load, match

from .conftest import ANSWERS, PREPROCESSING, TEXTS, VIDEO


def test_ask_gives_the_evaluations_five_most_likely_answers(checkpoints):
    model = load(checkpoints / "qa")
    results = ask(model, VIDEO, TEXTS[1])
    record = Record("one", VIDEO, questions=(Question(0, TEXTS[1], "red", "what"),))
    expected = evaluate_qa(model.model, [record], model.tokenizer, ANSWERS, PREPROCESSING).predictions[0].top
    assert tuple((a.answer, a.probability) for a in results) == expected
    assert sum(a.probability for a in results) == pytest.approx(1)  # a list of three answers


def test_match_gives_the_evaluations_scores(checkpoints):
    model = load(checkpoints / "retrieval")
    results = match(model, str(VIDEO), TEXTS)
    expected = evaluate_retrieval(model.model, [Record("one", VIDEO, captions=tuple(TEXTS))], model.tokenizer, PREPROCESSING)
    assert [m.text for m in results] == TEXTS
    assert [m.probability for m in results] == pytest.approx(expected.scores[:, 0].tolist(), abs=1e-6)
    assert [m.similarity for m in results] == pytest.approx(expected.similarities[:, 0].tolist(), abs=1e-6)
    assert match(load(checkpoints / "prompter"), VIDEO, TEXTS[:1])[0].probability is None


def test_official_file_gives_the_same_answers_as_own_checkpoint(checkpoints, tmp_path):
    folder = tmp_path / "public"
    export_official(load_model(checkpoints / "qa")[0], folder / "ckpt/model_step_best.pt")
    named = {"tokenizer": checkpoints / "text", "answers": checkpoints / "answers.json"}
    own = ask(load(checkpoints / "qa"), VIDEO, TEXTS[1])
    for checkpoint in (folder, folder / "ckpt/model_step_best.pt"):
        results = ask(load(checkpoint, **named), VIDEO, TEXTS[1])[: len(own)]
        assert [a.answer for a in results] == [a.answer for a in own]
        assert [a.probability for a in results] == pytest.approx([a.probability for a in own], abs=1e-6)


def test_frames_and_text_tokens_are_those_of_training(checkpoints, tmp_path):
    folder = tmp_path / "trained"
    folder.mkdir()
    for path in (checkpoints / "retrieval").iterdir():
        (folder / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text()) | {"viewing": {"frames": "headtail", "max_text_tokens": 7}}
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    model = load(folder)
    assert (model.frames, model.max_text_tokens) == ("headtail", 7)
    model = load(folder, frames="uniform_floor", max_text_tokens=9)
    assert (model.frames, model.max_text_tokens) == ("uniform_floor", 9)
    assert load(checkpoints / "retrieval").frames == "uniform"


def test_checkpoint_of_the_wrong_task_is_refused(checkpoints):
    with pytest.raises(CheckpointError, match="a retrieval checkpoint cannot answer questions; use one of task qa"):
        ask(load(checkpoints / "retrieval"), VIDEO, TEXTS[1])
    with pytest.raises(CheckpointError, match="a qa checkpoint cannot match texts"):
        match(load(checkpoints / "qa"), VIDEO, TEXTS)


def test_missing_or_unreadable_video_is_reported(checkpoints, tmp_path):
    model = load(checkpoints / "qa")
    with pytest.raises(DataError, match=r"none\.mp4: no such file"):
        ask(model, tmp_path / "none.mp4", TEXTS[1])
    with pytest.raises(DataError, match=r"made_text_not_a_video\.mp4"):
        ask(model, VIDEO.with_name("made_text_not_a_video.mp4"), TEXTS[1])
    with pytest.raises(DataError, match="a text is empty"):
        ask(model, VIDEO, " ")
    with pytest.raises(DataError, match="no text to match"):
        match(load(checkpoints / "retrieval"), VIDEO, [])


def test_parts_missing_from_an_official_file_must_be_specified(checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "qa.pt"
    export_official(load_model(checkpoints / "qa")[0], file)
    with pytest.raises(CheckpointError, match=r"qa\.pt: has no answer list; pass its train_ans2label\.json"):
        load(file)
    with pytest.raises(DataError, match="ext/bert-base-uncased: contains neither"):
        load(file, answers=checkpoints / "answers.json")
    (tmp_path / "long.json").write_text(json.dumps({f"word{n}": n for n in range(1600)}))
    with pytest.raises(CheckpointError, match="the answer list has 1600 answers, the checkpoint's head 1500 classes"):
        load(file, tokenizer=checkpoints / "text", answers=tmp_path / "long.json")
    with pytest.raises(ConfigError, match="did you mean 'uniform'"):
        load(file, frames="unifrm")


def test_commands_print_a_table_or_json(checkpoints):
    run = CliRunner().invoke
    printed = run(app, ["ask", str(VIDEO), TEXTS[1], "--checkpoint", str(checkpoints / "qa")])
    assert printed.exit_code == 0, printed.output
    assert len(printed.stdout.splitlines()) == 3 and all(" %  " in line for line in printed.stdout.splitlines())
    listed = json.loads(run(app, ["ask", str(VIDEO), TEXTS[1], "--checkpoint", str(checkpoints / "qa"), "--json"]).stdout)
    assert [row["answer"] for row in listed] == [line.split()[-1] for line in printed.stdout.splitlines()]
    printed = run(app, ["match", str(VIDEO), *TEXTS, "--checkpoint", str(checkpoints / "retrieval")])
    assert [line.split(maxsplit=3)[-1] for line in printed.stdout.splitlines()[1:]] == TEXTS
    command = ["match", str(VIDEO), *TEXTS[:2], "--checkpoint", str(checkpoints / "retrieval"), "--json"]
    listed = json.loads(run(app, command).stdout)
    assert [row["text"] for row in listed] == TEXTS[:2] and set(listed[0]) == {"text", "probability", "similarity"}


def test_readme_example_matches_the_python_api():
    """The names in the example of docs/inference.md are public API."""
    readme = (Path(__file__).parents[2] / "docs/inference.md").read_text()
    assert "from alpro.serving import ask, load, match" in readme


@pytest.mark.parametrize("text", ["what is \ud83d ?", "caf\udce9 ?", "a\0b"])
def test_texts_that_utf8_cannot_encode_are_refused(checkpoints, text):
    with pytest.raises(DataError, match=r"half of a character|not UTF-8|NUL"):
        ask(load(checkpoints / "qa"), VIDEO, text)
    with pytest.raises(DataError, match=r"half of a character|not UTF-8|NUL"):
        match(load(checkpoints / "retrieval"), VIDEO, ["a red circle", text])


def test_video_is_found_in_another_unicode_form(checkpoints, tmp_path):
    (tmp_path / "cafe\u0301.mp4").symlink_to(VIDEO)
    model = load(checkpoints / "qa")
    assert ask(model, tmp_path / "caf\u00e9.mp4", TEXTS[1]) == ask(model, VIDEO, TEXTS[1])
    (tmp_path / "caf\udce9.mp4").symlink_to(VIDEO)
    with pytest.raises(DataError, match=r"caf\\xe9\.mp4: its name is not UTF-8; rename it"):
        ask(model, tmp_path / "caf\udce9.mp4", TEXTS[1])
