"""A plan matches the training: steps, parameters, files; published numbers are used only if the data are missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from alpro.cli.main import app
from alpro.config import Params, load
from alpro.errors import ConfigError
from alpro.planning.plan import data_bytes, device_of, plan_trainings
from alpro.planning.published import Size
from tests.goldens_recipe import case

ROOT = Path(__file__).parents[2]
H100 = device_of("h100")


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Params:
    """Recipe `paper`, in a folder without any of its data."""
    params = load(ROOT / "recipes/paper.yaml")
    monkeypatch.chdir(tmp_path)
    return params


def test_plan_of_the_paper_uses_published_numbers(paper: Params) -> None:
    plans = {plan.name: plan for plan in plan_trainings(paper, 16, H100)}
    assert list(plans) == ["prompter", "pretrain", *(f"finetune/{task}" for task in paper.finetune)]
    assert not any(plan.counted for plan in plans.values())
    pretrain = plans["pretrain"]
    assert pretrain.samples == {"webvid2m": 2_500_000, "cc3m": 3_000_000} and pretrain.batch == 256
    assert pretrain.steps == 10 * (2_500_000 // 256 + 3_000_000 // 256)
    assert plans["prompter"].steps == 10 * (2_500_000 // 256 + 3_000_000 // 256) // 2  # accumulation 2
    assert plans["finetune/msvd_qa"].steps == 15 * (30_933 // 192) // 2
    assert plans["finetune/msvd_qa"].recomputed_flops > 0  # gradient checkpointing
    assert plans["finetune/msrvtt_ret"].recomputed_flops == 0
    assert pretrain.memory.frozen > 0.9e9 and pretrain.validation_flops is None


@pytest.mark.parametrize(
    ("training", "manifest"),
    [
        ("pretrain", "pretrain"),
        ("finetune/msrvtt_ret", "retrieval"),
        ("finetune/msrvtt_qa", "qa_msrvtt"),
        ("finetune/msvd_qa", "qa_msvd"),
    ],
)
def test_parameter_counts_equal_the_released_models(paper: Params, training: str, manifest: str) -> None:
    plan = next(plan for plan in plan_trainings(paper, 8, H100) if plan.name == training)
    assert plan.parameters == case(f"state_dict_info_{manifest}")["n_parameters"]
    assert plan.memory.weights + plan.memory.frozen == 4 * plan.parameters == plan.checkpoint_bytes


def test_hours_scale_with_number_and_speed_of_gpus(paper: Params) -> None:
    hours_8, hours_16 = (sum(plan.hours for plan in plan_trainings(paper, gpus, H100)) for gpus in (8, 16))
    assert hours_16 == pytest.approx(hours_8 / 2, rel=0.01)
    slow = sum(plan.hours for plan in plan_trainings(paper, 8, device_of(None, tflops=10, mfu=0.5)))
    work = sum(p.flops + p.recomputed_flops + (p.validation_flops or 0) for p in plan_trainings(paper, 8, H100))
    assert slow == pytest.approx(work / (8 * 10e12 * 0.5) / 3600)
    assert device_of("A100", mfu=0.5).single == 0.5 * 19.5e12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": "h10"}, "did you mean 'h100'"),
        ({"gpu": None, "tflops": 0}, "must be positive"),
        ({"gpu": "h100", "mfu": 1.2}, "at most 1"),
    ],
)
def test_unknown_devices_and_invalid_utilisation_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        device_of(**options)


def test_samples_are_counted_if_the_data_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from alpro.data.sample import make_sample
    from alpro.data.words.prepare import make_vocabulary
    from alpro.training.run import run_training

    params = load(ROOT / "recipes/tiny.yaml", ["loader.workers=0", "launch.threads=1", "finetune.msvd_qa.max_steps=2"])
    shutil.copytree(ROOT / "recipes/init", tmp_path / "recipes/init")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPRO_LIVE", "off")
    make_sample(params.sample, Path("data/sample"), workers=1)
    make_vocabulary(params, Path(params.text.tokenizer))
    plans = {plan.name: plan for plan in plan_trainings(params, 1, H100)}
    assert all(plan.counted and plan.validation_flops for plan in plans.values())
    assert plans["pretrain"].samples == {"webvid2m": params.sample.pretrain_videos, "cc3m": params.sample.pretrain_images}
    plan = plans["finetune/msvd_qa"]
    assert plan.steps == 2 and plan.samples["msvd_qa"] == len(
        Path("data/sample/msvd_qa/txt/train.jsonl").read_text().splitlines()
    )
    assert data_bytes(params)["data/sample/msvd_qa/videos"] > 10_000

    run_training(params, "finetune", "msvd_qa", init="recipes/init/scratch.yaml", output="out", record="record")
    assert Path("out/model.safetensors").stat().st_size == pytest.approx(
        plan.checkpoint_bytes, rel=0.15
    )  # the file also contains names


def test_shared_clips_save_their_encoding(paper: Params) -> None:
    """Of 404 GMAC for a question on 16 frames, 392 are the video encoder's."""
    changed = load(ROOT / "recipes/paper.yaml", ["finetune.msvd_qa.questions_per_clip=4"])
    (one,), (four,) = (
        [plan for plan in plan_trainings(p, 8, H100) if plan.name == "finetune/msvd_qa"] for p in (paper, changed)
    )
    assert one.samples == four.samples and one.batch == four.batch
    assert four.steps == pytest.approx(one.steps * 1.06, rel=0.01)  # rows of 3.8 questions: 26 or 27 in 7
    assert one.flops / four.flops == pytest.approx(404.4 / (392.1 / 3.79 + 12.3), rel=0.02)
    assert one.recomputed_flops / four.recomputed_flops == pytest.approx(3.79, rel=0.02)
    assert four.memory.recomputed == one.memory.recomputed / 4 and four.memory.activations < 0.55 * one.memory.activations


def test_counted_texts_give_the_exact_number_of_samples() -> None:
    assert [Size(3, 10, (1, 4, 5)).samples(k) for k in (1, 2, 4, 5)] == [10, 6, 4, 3]
    assert [Size(100, 500).samples(k) for k in (1, 5)] == [500, 140] and Size(9, 9).samples(3) == 9


def test_dataset_of_unknown_size_is_reported(paper: Params) -> None:
    renamed = {
        name: {"own": part["msvd_qa"]}
        for name, part in paper.model_dump().items()
        if name in ("datasets", "finetune", "evaluate")
    }
    with pytest.raises(ConfigError, match="own: its files are missing"):
        plan_trainings(Params.model_validate({**paper.model_dump(), **renamed, "zeroshot": {}}), 8, H100)


def test_command_prints_its_assumptions(paper: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    monkeypatch.setenv("COLUMNS", "160")
    words = ["plan", "--params", str(ROOT / "recipes/paper.yaml"), "-S", "pretrain.batch_size=128"]
    output = CliRunner().invoke(app, words).output
    assert "hours on 8 H100" in output and "assumed" in output and "published numbers" in output
    assert "more than the 80 GB of a H100" in output  # 128 clips in fp32
    monkeypatch.setenv("COLUMNS", "80")
    for recipe in ("sample", "official", "paper"):
        narrow = CliRunner().invoke(app, ["plan", "--params", str(ROOT / f"recipes/{recipe}.yaml")]).output
        assert narrow.count("finetune/msrvtt_ret ") == 2 and "…" not in narrow, "the names are complete at 80 columns"
    content = json.loads(CliRunner().invoke(app, [*words, "--json"]).output)
    (pretrain,) = (training for training in content["trainings"] if training["name"] == "pretrain")
    assert pretrain["batch"] == 1024 and content["gpus"] == 8
    assert data_bytes(paper) == {}
