"""`alpro weights`: descriptions of checkpoints, import of official files with tokenizer and answers, and export."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from alpro.checkpoints.convert import describe_checkpoint, import_checkpoint
from alpro.checkpoints.files import export_official, load_checkpoint, save_checkpoint
from alpro.cli.main import app
from alpro.data.text.tokenizer import train_vocabulary
from alpro.errors import CheckpointError, DataError
from alpro.models.timesformer import resize_grid

WIDE = {"width": 128, "heads": 2}  # heads of width 64, as assumed for a file without sizes


@pytest.fixture
def wide(small):
    """Return a function that builds small models with heads of the paper's width."""
    return lambda task, **arguments: small(
        task, config=small(task).config.model_copy(update=WIDE | arguments.pop("sizes", {})), **arguments
    )


@pytest.fixture
def file(wide, tmp_path):
    """An official question-answering file with five answers, padded to 1,500 classes."""
    export_official(wide("qa", seed=1), tmp_path / "qa.pt")
    return tmp_path / "qa.pt"


@pytest.fixture
def extras(tmp_path):
    train_vocabulary(["a red circle moves left", "what is it"], tmp_path / "text", 100)
    (tmp_path / "list.json").write_text(json.dumps({f"word{n}": n for n in range(5)}))
    return {"tokenizer": tmp_path / "text", "answers": tmp_path / "list.json"}


def test_show_prints_shapes_parameters_and_differences_to_a_task(wide, tmp_path):
    model = wide("pretrain", seed=1)
    export_official(model, tmp_path / "pretrain.pt")
    lines = describe_checkpoint(tmp_path / "pretrain.pt", "retrieval").splitlines()
    assert sum(line.split()[0] in model.state_dict() for line in lines if line.strip()) == len(model.state_dict())
    (shape,) = [line for line in lines if line.startswith("visual_encoder.model.time_embed ")]
    assert "1x3x128" in shape
    assert f"pretrain checkpoint, {sum(p.numel() for p in model.parameters()):,} parameters" in lines
    assert any("not used: " in line and "mpm_head (4)" in line and "prompter" in line for line in lines)


def test_import_keeps_tokenizer_and_answers_and_every_byte(file, extras, tmp_path):
    report = import_checkpoint(file, tmp_path / "own", "qa", **extras)
    assert "tensors loaded" in str(report)
    assert json.loads((tmp_path / "own/answers.json").read_text()) == json.loads(extras["answers"].read_text())
    assert (tmp_path / "own/tokenizer/vocab.txt").read_bytes() == (extras["tokenizer"] / "vocab.txt").read_bytes()
    config = json.loads((tmp_path / "own/config.json").read_text())
    assert (config["task"], config["num_answers"], config["source"]) == ("qa", 1500, str(file))
    theirs, ours = load_checkpoint(file)[0], load_checkpoint(tmp_path / "own")[0]
    assert theirs.keys() == ours.keys() and all(theirs[key].equal(ours[key]) for key in theirs)


def test_import_accepts_another_task_only_if_compatible(wide, tmp_path):
    export_official(wide("pretrain", seed=1), tmp_path / "pretrain.pt")
    report = import_checkpoint(tmp_path / "pretrain.pt", tmp_path / "own", "prompter")
    assert json.loads((tmp_path / "own/config.json").read_text())["task"] == "prompter" and not report.new
    with pytest.raises(CheckpointError, match=r"a prompter checkpoint can't start a retrieval model"):
        import_checkpoint(tmp_path / "own", tmp_path / "other", "retrieval")
    with pytest.raises(CheckpointError, match="did you mean 'retrieval'"):
        import_checkpoint(tmp_path / "own", tmp_path / "other", "retrival")
    assert not (tmp_path / "other").exists()


def test_import_resizes_both_position_embeddings(wide, tmp_path):
    model = wide("retrieval", seed=1)
    torch.nn.init.normal_(model.visual_encoder.model.pos_embed)
    export_official(model, tmp_path / "ret.pt")
    for mode in ("flat_nearest", "bicubic"):
        report = import_checkpoint(tmp_path / "ret.pt", tmp_path / mode, num_frames=6, image_size=48, resize=mode)
        assert len(report.resized) == 2
        places = load_checkpoint(tmp_path / mode)[0]["visual_encoder.model.pos_embed"][:, 1:]
        old = model.visual_encoder.model.pos_embed.detach()[:, 1:]
        smooth = resize_grid(old, (4, 4), (6, 6), "bicubic")
        assert places.equal(smooth if mode == "bicubic" else old[:, [n * 16 // 36 for n in range(36)]])


def test_mismatched_vocabulary_or_answer_list_is_refused(file, extras, wide, tmp_path):
    train_vocabulary(["a red circle"], tmp_path / "short", 60)
    with pytest.raises(DataError, match=r"the vocabulary has 60 tokens, the model 100"):
        import_checkpoint(file, tmp_path / "own", tokenizer=tmp_path / "short")
    (tmp_path / "long.json").write_text(json.dumps({f"word{n}": n for n in range(1600)}))
    with pytest.raises(CheckpointError, match="the answer list has 1600 answers, the checkpoint's head 1500 classes"):
        import_checkpoint(file, tmp_path / "own", answers=tmp_path / "long.json")
    (tmp_path / "holes.json").write_text('{"red": 0, "blue": 2}')
    with pytest.raises(DataError, match="labels must be 0 to 1, each once"):
        import_checkpoint(file, tmp_path / "own", answers=tmp_path / "holes.json")
    export_official(wide("retrieval"), tmp_path / "ret.pt")
    with pytest.raises(CheckpointError, match="the checkpoint has no answer head"):
        import_checkpoint(tmp_path / "ret.pt", tmp_path / "own", answers=extras["answers"])
    assert not (tmp_path / "own").exists()


def test_commands_import_show_and_export_a_checkpoint(file, extras, tmp_path):
    own, again = str(tmp_path / "own"), str(tmp_path / "again.pt")
    run = CliRunner().invoke
    kept = ["--tokenizer", str(extras["tokenizer"]), "--answers", str(extras["answers"])]
    for command in (
        ["weights", "import", str(file), "--output", own, "--task", "qa", *kept],
        ["weights", "show", own],
        ["weights", "export", own, again],
    ):
        done = run(app, command)
        assert done.exit_code == 0, done.output
    first, second = torch.load(file, weights_only=True), torch.load(again, weights_only=True)
    assert list(first) == list(second) and all(first[key].equal(second[key]) for key in first)


def test_saved_sizes_take_precedence_over_guesses(small, tmp_path):
    """Shapes don't reveal the number of heads, so the checkpoint's directory saves it."""
    model = small("retrieval")
    save_checkpoint(tmp_path / "own", model, {})
    assert load_checkpoint(tmp_path / "own")[1]["model"]["heads"] == model.config.heads == 4
