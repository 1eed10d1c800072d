"""The commands of dvc.yaml take no value from params.yaml; `alpro stage` looks the values up."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
import yaml

from alpro.cli.main import app
from alpro.config import load
from alpro.config.pipeline import stage_command, unneeded_output
from alpro.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONSTANT = 'python -m alpro stage "$DVC_STAGE"'


def stages() -> dict[str, dict[str, object]]:
    """Return the stages by name; of a group with `foreach`, its template."""
    read = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) | {"foreach": stage.get("foreach")} for name, stage in read.items()}


@pytest.mark.parametrize("name", stages())
def test_no_command_contains_a_value_of_params_yaml(name: str) -> None:
    assert stages()[name]["cmd"] == CONSTANT


@pytest.mark.parametrize("recipe", ["tiny", "sample", "official", "paper"])
def test_every_stage_runs_a_valid_command_that_writes_the_outputs_of_dvc_yaml(recipe: str) -> None:
    params = load(ROOT / f"recipes/{recipe}.yaml")
    raw = yaml.safe_load((ROOT / f"recipes/{recipe}.yaml").read_text())
    for name, stage in stages().items():
        if name == "sample" and params.sample is None:
            continue
        section = str(stage["foreach"] or "").strip("${}")
        for key in raw.get(section) or {} if section else [""]:
            words = stage_command(params, f"{name}@{key}" if key else name)
            inner = words[2:] if words[0] == "launch" else words
            typer.main.get_command(app).make_context("alpro", list(inner), resilient_parsing=True)
            written = [word.split("=", 1)[-1] for word in words]
            for out in [*stage["outs"], *stage.get("metrics", ())]:  # type: ignore[misc, attr-defined]
                path = next(iter(out)) if isinstance(out, dict) else out
                path = path.replace("${recipe}", recipe).replace("${key}", key)
                if name in ("sample", "report", "convert"):  # the folders of these commands are their own defaults
                    continue
                assert any(path == word or path.startswith(f"{word}/") for word in written), (name, path)


def test_values_stay_single_words_whatever_they_contain(tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "recipes/tiny.yaml").read_text())
    raw["init"]["finetune"] = "/data/my models/a'; touch x; '"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    words = stage_command(load(tmp_path / "params.yaml"), "finetune@msvd_qa")
    assert "--init=/data/my models/a'; touch x; '" in words


def test_a_change_of_where_a_training_starts_is_a_dependency() -> None:
    roles = {"prompter": ["init.prompter"], "pretrain": ["init.pretrain", "init.teacher"], "finetune": ["init.finetune"]}
    for name, keys in {**roles, "zeroshot": ["init.finetune"]}.items():
        assert set(keys) <= set(stages()[name]["params"])  # type: ignore[call-overload]


def test_a_recipe_on_real_data_has_no_sample() -> None:
    with pytest.raises(ConfigError, match=r"recipe official reads real data.*`dvc repro report`"):
        stage_command(load(ROOT / "recipes/official.yaml"), "sample")


def test_trainings_that_the_report_does_not_need_are_known() -> None:
    names = ("sample", "prompter", "pretrain", "finetune@msvd_qa", "finetune@msrvtt_ret", "evaluate@msvd_qa")
    changes = {
        (): set(),
        ("init.finetune=given",): {"models/tiny/prompter", "models/tiny/pretrain"},
        ("init.teacher=given",): {"models/tiny/prompter"},
        ("evaluate.msvd_qa.checkpoint=given",): {"models/tiny/finetune/msvd_qa"},
    }
    for change, expected in changes.items():
        params = load(ROOT / "recipes/tiny.yaml", change)
        assert {unneeded_output(params, name) for name in names} - {None} == expected


@pytest.mark.parametrize("address", ["finetune@msvdqa", "finetun@msvd_qa", "report@x", "", "evaluate"])
def test_unknown_stages_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="there is no stage"):
        stage_command(load(ROOT / "recipes/tiny.yaml"), address)
