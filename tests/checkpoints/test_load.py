"""Checkpoints are opened without executing code and transferred between tasks by a table; other differences are errors."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from alpro.checkpoints.files import answer_head_width, check_answer_head, export_official, load_checkpoint, save_checkpoint
from alpro.checkpoints.load import load_into, load_model
from alpro.errors import CheckpointError
from alpro.files.outputs import MANIFEST
from alpro.models import TASKS


def same_bytes(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].numpy().tobytes() == b[k].numpy().tobytes() for k in a
    )


@pytest.mark.parametrize("task", TASKS)
def test_converting_from_official_and_back_keeps_every_byte(small, tmp_path, task):
    model = small(task, num_answers=1500)
    export_official(model, tmp_path / "official.pt")
    assert type(torch.load(tmp_path / "official.pt", weights_only=True)) in (dict, OrderedDict)
    loaded, info, _ = load_model(tmp_path / "official.pt", config=model.config)
    assert info["task"] == task and info["num_frames"] == model.num_frames
    save_checkpoint(tmp_path / "own", loaded, {})
    again, _, _ = load_model(tmp_path / "own")
    export_official(again, tmp_path / "again.pt")
    first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("official.pt", "again.pt"))
    assert list(first) == list(second) == list(model.state_dict())
    assert same_bytes(first, second)


def test_small_answer_head_is_exported_at_the_released_width(small, batch, tmp_path):
    model = small("qa").eval()
    export_official(model, tmp_path / "official.pt")
    exported, info, _ = load_model(tmp_path / "official.pt", config=model.config)
    assert info["num_answers"] == 1500
    logits, wide = model(batch()).logits["qa"], exported(batch()).logits["qa"]
    torch.testing.assert_close(wide.softmax(1)[:, :5], logits.softmax(1))
    assert not wide.softmax(1)[:, 5:].any()


def test_saved_directory_is_complete_and_reproducible(small, tmp_path):
    model = small("qa")
    answers, vocabulary = tmp_path / "a.json", tmp_path / "v"
    answers.write_text('{"red": 0}')
    vocabulary.mkdir()
    (vocabulary / "vocab.txt").write_text("[PAD]\n")
    for name in ("one", "two"):
        extras = {"answers.json": answers, "tokenizer": vocabulary}
        save_checkpoint(tmp_path / name, model, {"note": "x"}, extras)
    one, two = (sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("one", "two"))
    assert [p.name for p in one] == [MANIFEST, "answers.json", "config.json", "model.safetensors", "vocab.txt"]
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    config = json.loads((tmp_path / "one/config.json").read_text())
    assert config["task"] == "qa" and config["num_answers"] == 5 and config["note"] == "x" and config["model"]["width"] == 48


def test_tied_weights_are_saved_once_and_tied_on_loading(small, tmp_path):
    model = small("retrieval")
    save_checkpoint(tmp_path / "own", model, {})
    loaded, _, _ = load_model(tmp_path / "own")
    head = loaded.text_encoder.cls.predictions
    assert head.decoder.weight is loaded.bert.embeddings.word_embeddings.weight
    assert head.decoder.bias is head.bias
    with pytest.raises(CheckpointError, match="one tensor in the model"):
        state = model.state_dict()
        state["text_encoder.cls.predictions.decoder.weight"] = state["text_encoder.cls.predictions.decoder.weight"] + 1
        torch.save(state, tmp_path / "untied.pt")
        load_checkpoint(tmp_path / "untied.pt")


def test_question_answering_files_have_no_bert_level(small):
    qa, retrieval = small("qa").state_dict(), small("retrieval").state_dict()
    assert "text_encoder.embeddings.word_embeddings.weight" in qa
    assert "text_encoder.bert.embeddings.word_embeddings.weight" in retrieval


def test_pretraining_initialises_retrieval_and_reports_dropped_heads(small):
    source, target = small("pretrain", seed=1), small("retrieval", seed=2)
    report = load_into(target, source.state_dict())
    for key, tensor in target.state_dict().items():
        assert tensor.equal(source.state_dict()[key]), key
    assert {key.split(".")[0] for key in report.dropped} == {"prompter", "mpm_head"}
    assert "prompter" in str(report) and "mpm_head (4)" in str(report) and not report.new


def test_pretraining_initialises_question_answering_with_a_new_classifier(small):
    source, target = small("pretrain", seed=1), small("qa", seed=2)
    before = target.classifier[0].weight.clone()
    report = load_into(target, source.state_dict())
    assert target.bert.layers[3].output.dense.weight.equal(source.bert.layers[3].output.dense.weight)
    assert target.classifier[0].weight.equal(before)
    assert {key.split(".")[0] for key in report.new} == {"classifier"}
    assert "classifier (4)" in str(report)


def test_prompter_is_loaded_from_a_pretraining_checkpoint(small):
    source, target = small("pretrain", seed=1), small("prompter", seed=2)
    load_into(target, source.state_dict())
    assert all(t.equal(source.prompter.state_dict()[k]) for k, t in target.state_dict().items())


def test_prompter_is_loaded_as_the_teacher_of_a_pretraining(small):
    source, target = small("prompter", seed=1), small("pretrain", seed=2)
    load_into(target.prompter, source.state_dict(), {"task": "prompter"})
    assert all(t.equal(source.state_dict()[k]) for k, t in target.prompter.state_dict().items())


def test_prompts_of_another_entity_list_are_dropped_with_a_message(small):
    report = load_into(small("prompter", num_entities=9), small("prompter").state_dict())
    assert "video_prompt_feat" in report.dropped and "video_prompt_feat" in str(report)


@pytest.mark.parametrize(
    ("source", "target"), [("retrieval", "qa"), ("qa", "retrieval"), ("prompter", "retrieval"), ("qa", "pretrain")]
)
def test_checkpoint_of_another_task_is_refused(small, source, target):
    with pytest.raises(CheckpointError, match=f"a {source} checkpoint can't start a {target} model"):
        load_into(small(target), small(source).state_dict())


def test_pretraining_without_pem_gives_no_prompter(small):
    source = small("pretrain", num_entities=0)
    assert not any(key.startswith(("prompter.", "mpm_head.")) for key in source.state_dict())
    with pytest.raises(CheckpointError, match="without PEM"):
        load_into(small("prompter"), source.state_dict(), {"task": "pretrain"})
    report = load_into(small("pretrain"), source.state_dict(), {"task": "pretrain"})
    assert {key.split(".")[0] for key in report.new} == {"prompter", "mpm_head"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 120}, "vocabulary differs"),
        ({"width": 64}, "48"),
        ({"vision_layers": 3}, "blocks.2"),
        ({"text_layers": 1}, "layer.3"),
    ],
)
def test_checkpoint_of_other_sizes_is_refused_without_any_change(small, changes, message):
    target = small("retrieval", config=small("retrieval").config.model_copy(update=changes), seed=3)
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_into(target, small("retrieval").state_dict())
    assert all(tensor.equal(before[key]) for key, tensor in target.state_dict().items())


def test_answer_list_of_the_wrong_length_is_refused(small):
    with pytest.raises(CheckpointError, match="answer list differs"):
        load_into(small("qa", num_answers=7), small("qa").state_dict())
    assert answer_head_width(1000) == 1500 and answer_head_width(2423) == 2423
    for answers, classes in ((5, 5), (5, 1500), (1500, 1500), (2423, 2423)):
        check_answer_head(answers, classes)
    for answers, classes in ((1500, 2423), (2423, 1500), (7, 5), (5, 7)):  # MSRVTT-QA's list on MSVD-QA's head, and so on
        with pytest.raises(CheckpointError, match=f"has {answers} answers, the checkpoint's head {classes} classes"):
            check_answer_head(answers, classes)


def test_lavis_checkpoint_is_converted_by_the_same_table(small, tmp_path):
    """LAVIS wraps its state dict, has no `.bert` level, and omits the unused weights."""
    for task, left_out in (("retrieval", ("text_encoder.cls.", "visual_encoder.model.head.")), ("qa", ("temp", "itm_head."))):
        model = small(task, seed=4)
        state = {k.replace(".bert.", "."): v for k, v in model.state_dict().items() if not k.startswith(left_out)}
        torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 3}, tmp_path / f"{task}.pt")
        state, info = load_checkpoint(tmp_path / f"{task}.pt")
        assert info["task"] == task
        target = small(task, seed=5)
        report = load_into(target, state, info)
        assert target.bert.layers[0].output.dense.weight.equal(model.bert.layers[0].output.dense.weight)
        assert report.new and all(key.startswith(left_out) for key in report.new)


def test_half_precision_checkpoint_becomes_float32(small, tmp_path):
    state = {k: v.half() if v.is_floating_point() else v for k, v in small("retrieval").state_dict().items()}
    torch.save(state, tmp_path / "half.pt")
    state, _ = load_checkpoint(tmp_path / "half.pt")
    assert state["temp"].dtype == torch.float32


# --- bad files --------------------------------------------------------------------------------------------


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w').write('I ran')",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code_is_refused_and_does_not_run(small, tmp_path, zipped):
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    torch.save({**small("retrieval").state_dict(), "x": Malicious(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"refused.*nothing was executed"):
        load_checkpoint(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the payload of this test, which can run: otherwise it proves nothing
    assert marker.exists()


def test_bare_pickle_with_code_is_refused_and_does_not_run(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not marker.exists()


def test_truncated_checkpoints_are_refused(small, tmp_path):
    torch.save(small("qa").state_dict(), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"cut\.pt: (cut short|no checkpoint)"):
            load_checkpoint(tmp_path / "cut.pt")
    save_checkpoint(tmp_path / "own", small("qa"), {})
    weights = tmp_path / "own/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "own")


def test_zip_without_a_checkpoint_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "output.pt", "w") as archive:
        archive.writestr("ckpt/model.pt", "x")
    with pytest.raises(CheckpointError, match="a zip, but no checkpoint"):
        load_checkpoint(tmp_path / "output.pt")


def test_nan_weights_are_refused(small, tmp_path):
    state = small("qa").state_dict()
    state["vision_proj.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(CheckpointError, match=r"vision_proj\.weight holds NaN"):
        load_checkpoint(tmp_path / "nan.pt")


@pytest.mark.parametrize("content", [{"weights": torch.zeros(2)}, {"a": 1}, [1, 2], {}])
def test_files_without_an_alpro_model_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"no ALPRO model|no state dict"):
        load_checkpoint(tmp_path / "other.pt")


def test_missing_files_and_broken_configs_are_reported(small, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "nowhere.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path / "empty")
    save_checkpoint(tmp_path / "own", small("qa"), {})
    for broken, message in (
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"task": "x"}', "must be one of"),
        ('{"model": {"width": "x"}}', "describes no model"),
    ):
        (tmp_path / "own/config.json").write_text(broken)
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path / "own")
    (tmp_path / "own/config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(tmp_path / "own")


def test_failed_write_leaves_the_old_checkpoint(small, tmp_path):
    save_checkpoint(tmp_path / "own", small("qa", seed=1), {})
    before = (tmp_path / "own/model.safetensors").read_bytes()
    with pytest.raises(FileNotFoundError):
        save_checkpoint(tmp_path / "own", small("qa", seed=2), {}, {"answers.json": tmp_path / "missing.json"})
    assert (tmp_path / "own/model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["own"]
