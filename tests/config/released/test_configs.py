"""Released configurations are converted to complete parameters, and every key is accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from alpro import config
from alpro.cli.main import app
from alpro.config.released import import_configs
from alpro.config.released.keys import RULES, TEXT_RULES, VIDEO_RULES, Nothing, Only
from alpro.errors import ConfigError
from alpro.models.encoders import PIXEL_MEAN, PIXEL_STD

ROOT = Path(__file__).parents[3]
RELEASED = json.loads(Path(__file__).with_name("released.json").read_text())
CONFIGS: dict[str, dict[str, Any]] = RELEASED["configs"]
SECTIONS = {
    "msrvtt_ret.json": "finetune.msrvtt_ret", "didemo_ret.json": "finetune.didemo_ret", "msrvtt_qa.json": "finetune.msrvtt_qa",
    "msvd_qa.json": "finetune.msvd_qa", "pretrain_alpro.json": "pretrain", "pretrain_prompter.json": "prompter",
}  # fmt: skip
SAME = {
    "max_txt_len": "max_text_tokens", "num_frm": "num_frames", "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation", "num_train_epochs": "epochs", "num_valid": "validations",
    "learning_rate": "learning_rate", "betas": "betas", "grad_norm": "grad_clip", "warmup_ratio": "warmup_ratio",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The released folder config_release, in a project with the recipes."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "config_release").mkdir()
    for name, content in CONFIGS.items():
        (tmp_path / "config_release" / name).write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return Path("config_release")


def at(params: dict[str, Any], path: str) -> Any:
    for name in path.split("."):
        params = params[name]
    return params


def changed(folder: Path, name: str, **values: Any) -> Path:
    (folder / name).write_text(json.dumps(CONFIGS[name] | values))
    return folder / name


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_is_handled_and_the_parameters_load(folder: Path, name: str) -> None:
    found = import_configs([folder / name])
    entries = [entry for entry in found.entries if entry.file == str(folder / name)]
    assert sorted(entry.key for entry in entries) == sorted(CONFIGS[name])
    assert all(entry.sets or entry.why for entry in entries)
    found.write("params.yaml")
    assert config.load("params.yaml").recipe == "imported"
    for entry in found.entries:
        assert all(at(found.params, path) == value for path, value in entry.sets.items())


@pytest.mark.parametrize("name", SECTIONS)
def test_training_values_come_from_the_file(folder: Path, name: str) -> None:
    params = import_configs([folder / name]).params
    section = at(params, SECTIONS[name])
    for key, own in SAME.items():
        if key in CONFIGS[name]:
            assert section[own] == CONFIGS[name][key], key
    assert params["seed"] == 42 and params["model"]["image_size"] == 224
    assert params["text"]["tokenizer"] == "ext/bert-base-uncased"
    assert section["weight_decay"] == 0 and section["accumulate"] == "sum"  # what the released code does
    assert section["gradient_checkpointing"] == ("official" if name.endswith("qa.json") else "none")
    if name.startswith("pretrain"):
        assert section["decode_size"] == 256 and section["train_frames"] == section["eval_frames"] == "headtail"
    else:
        assert section["decode_size"] is None and section["eval_frames"] == "uniform_floor"
        assert params["init"]["finetune"] == "output/pretrain/alpro_pretrained_ckpt.pt"


@pytest.mark.parametrize("name", SECTIONS)
def test_recipe_official_equals_the_released_files(folder: Path, name: str) -> None:
    """Only paths differ: the run's folder, downloaded weights, and MSRVTT-QA's link to the videos."""
    official = yaml.safe_load((ROOT / "recipes/official.yaml").read_text())
    found = import_configs([folder / name], name="official")
    free = ("init.finetune", "init.teacher", "datasets.msrvtt_qa.videos")
    for entry in found.entries:
        assert all(at(official, path) == value for path, value in entry.sets.items() if path not in free), entry
    for path in free:
        section, _, last = path.rpartition(".")
        at(found.params, section)[last] = at(official, path)
    assert found.params == official


def test_all_files_are_imported_together(folder: Path) -> None:
    found = import_configs(sorted(folder.iterdir()), name="mine")
    assert found.params["init"]["teacher"] == "output/pretrain/prompter_pretrained.pt"
    assert found.params["evaluate"]["msvd_qa"]["checkpoint"] == "models/mine/finetune/msvd_qa"
    assert found.params["corpora"]["webvid2m"]["train"] == "data/webvid2m/txt/train.csv"
    assert "convert it to .csv" in str(found)
    other = changed(folder, "didemo_ret.json", e2e_weights_path="other.pt")
    with pytest.raises(ConfigError, match=r"init\.finetune cannot be both .*import the files separately"):
        import_configs([folder / "msrvtt_ret.json", other])


def test_unused_keys_are_reported_with_a_reason(folder: Path) -> None:
    shown = str(import_configs([folder / "msvd_qa.json"]))
    for key, why in (
        ("num_workers", "never read"), ("weight_decay", "never passed to the released optimizer"), ("dropout", "never read"),
        ("num_labels", "max(answers, 1500)"), ("resize_size", "straight to crop_img_size"), ("cnn_lr_decay", "never uses"),
    ):  # fmt: skip
        (line,) = [line for line in shown.splitlines() if line.startswith(f"  {key} = ")]
        assert why in line


def test_every_option_of_the_released_code_has_a_rule() -> None:
    """A training's log/args.json contains all options, so it can be imported too."""
    options = {option.removeprefix("--") for option in RELEASED["options_and_defaults"]}
    assert options <= {*RULES, "model_config", "task", "ans2label_path"}
    assert RULES["img_pixel_mean"] == Only(list(PIXEL_MEAN), RULES["img_pixel_mean"].why)
    assert RULES["img_pixel_std"].value == list(PIXEL_STD)
    for rules in (RULES, TEXT_RULES, VIDEO_RULES):
        for rule in rules.values():
            for one in rule.values() if isinstance(rule, dict) else [rule]:
                assert not isinstance(one, Nothing) or len(one.why.split()) > 1


def test_saved_arguments_of_a_training_are_imported(folder: Path) -> None:
    args = CONFIGS["msrvtt_ret.json"] | {
        "n_gpu": 4, "inference_n_clips": 1, "do_inference": False, "output_dir": "out", "valid_steps": 100,
        "num_train_steps": 7000, "frm_sampling_strategy": "rand", "eval_retrieval_batch_size": 256, "step_decay_epochs": None,
    }  # fmt: skip
    Path("args.json").write_text(json.dumps(args))
    params = import_configs(["args.json"]).params
    assert params["launch"]["processes"] == 4 and params["evaluate"]["msrvtt_ret"]["batch_pairs"] == 256
    assert params["finetune"]["msrvtt_ret"]["train_frames"] == "random"


def test_custom_dataset_starts_from_its_task_defaults(folder: Path) -> None:
    sets = [{"name": "cooking", "txt": "my/txt/train.jsonl", "img": "my/videos/"}]
    file = changed(folder, "msrvtt_ret.json", train_datasets=sets, val_datasets=[], num_train_epochs=7)
    params = import_configs([file], name="mine").params
    assert params["datasets"]["cooking"] == {"task": "retrieval", "annotations": "my/txt", "videos": "my/videos"}
    assert params["finetune"]["cooking"]["epochs"] == 7 and params["finetune"]["msrvtt_ret"]["epochs"] == 5
    assert params["evaluate"]["cooking"]["checkpoint"] == "models/mine/finetune/cooking"


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("msrvtt_ret.json", {"learning_rte": 1}, r"learning_rte: not a key of the released code; did you mean 'learning_rate'"),
        ("msrvtt_ret.json", {"img_input_format": "BGR"}, r'img_input_format: "BGR" is not supported, only RGB'),
        ("msrvtt_ret.json", {"frm_sampling_strategy": "middle"}, "frm_sampling_strategy.*must be headtail or rand"),
        ("msrvtt_ret.json", {"train_n_clips": 4}, "train_n_clips: 4 is not supported"),
        ("msrvtt_ret.json", {"train_batch_size": 0}, r"finetune\.msrvtt_ret\.batch_size"),
        ("msrvtt_ret.json", {"train_datasets": []}, "must list objects with a name"),
        ("msrvtt_ret.json", {"train_datasets": [{"name": "x", "txt": "a/t.jsonl", "img": "v"}]}, r"named train\.jsonl"),
        ("msrvtt_qa.json", {"ans2label_path": "elsewhere.json"}, r"must be data/msrvtt_qa/txt/train_ans2label\.json"),
        ("pretrain_alpro.json", {"visual_weights_path": "swin"}, "must be vit_base_patch16_224; for other weights"),
        ("pretrain_alpro.json", {"val_datasets": [{"name": "x", "ann": "x.csv"}]}, "x is not among train_datasets"),
        ("base_model.json", {"hidden_act": "relu"}, "hidden_act"),
        ("base_model.json", {"hidden_dropout_prob": 0.3}, "must equal attention_probs_dropout_prob"),
        ("base_model.json", {"num_attention_heads": 7}, "not a multiple of heads"),
    ],
)
def test_unsupported_values_are_rejected_by_name(folder: Path, name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        import_configs([changed(folder, name, **values)])


def test_files_other_than_configurations_are_refused(folder: Path) -> None:
    Path("x.json").write_text("{")
    Path("y.json").write_text('{"a": 1}')
    for file, message in (
        ("x.json", "not valid JSON"),
        ("none.json", "not found"),
        ("y.json", "not a configuration of the released code"),
    ):
        with pytest.raises(ConfigError, match=message):
            import_configs([file])


def test_command_writes_the_parameters_and_reports_each_key(folder: Path) -> None:
    done = CliRunner().invoke(app, ["config", "import", str(folder / "msvd_qa.json"), "--name", "mine", "--output", "p.yaml"])
    assert done.exit_code == 0, done.output
    assert config.load("p.yaml").recipe == "mine" and "weight_decay = 0.001" in done.output


def test_missing_model_file_is_reported(folder: Path) -> None:
    (folder / "base_model.json").unlink()
    assert "file not found; its parameters stay as in recipe official" in str(import_configs([folder / "msrvtt_ret.json"]))
