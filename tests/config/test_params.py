"""params.yaml: unknown keys, wrong types and contradictions are refused with the key and the nearest known name."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from alpro import config
from alpro.config import override
from alpro.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def raw() -> dict:
    return copy.deepcopy(yaml.safe_load((ROOT / "recipes/sample.yaml").read_text()))


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_is_complete_and_named_after_its_file(recipe: Path) -> None:
    assert config.load(recipe).recipe == recipe.stem


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_has_equal_values_in_both_yaml_versions(recipe: Path) -> None:
    """DVC reads YAML 1.2, in which `off` is a string and `1e-4` a number; both readers must see the same values."""
    from ruamel.yaml import YAML

    newer = YAML(typ="safe").load(recipe.read_text())
    assert yaml.safe_load(recipe.read_text()) == newer


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_sets_every_parameter(recipe: Path) -> None:
    def keys(value: object) -> object:
        return {key: keys(inner) for key, inner in value.items()} if isinstance(value, dict) else None

    assert keys(yaml.safe_load(recipe.read_text())) == keys(config.load(recipe).model_dump())


def test_misspelt_parameter_suggests_the_nearest_name(raw: dict) -> None:
    raw["finetune"]["msvd_qa"]["learning_rte"] = 1.0
    with pytest.raises(ConfigError, match=r"finetune\.msvd_qa\.learning_rte: no such parameter; did you mean 'learning_rate'"):
        config.parse(raw)


def test_every_error_is_listed_on_its_own_line(raw: dict) -> None:
    raw["sede"] = 1
    raw["pretrain"]["batch_size"] = 0
    with pytest.raises(ConfigError) as error:
        config.parse(raw)
    lines = str(error.value).splitlines()
    assert len(lines) == 2 and "did you mean 'seed'" in str(error.value) and "pretrain.batch_size" in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "patch_size"), 7, "not a multiple of patch_size"),
        (("model", "heads"), 5, "not a multiple of heads"),
        (("prompter", "corpora"), ["webvid"], "did you mean 'webvid2m'"),
        (("finetune", "msvd_qa", "max_text_tokens"), 1000, "max_positions"),
        (("zeroshot", "msvd_qa"), {}, "only retrieval"),
        (("pretrain", "batch_size"), 1, r"pretrain\.batch_size must be 2 or more: VTM takes its negatives"),
        (("finetune", "msrvtt_ret", "batch_size"), 1, r"finetune\.msrvtt_ret\.batch_size must be 2 or more"),
        (("finetune", "msvd_qa", "learning_rate"), "fast", "learning_rate"),
        (
            ("finetune", "msvd_qa", "epochs"),
            "6",
            r"^params\.yaml: finetune\.msvd_qa\.epochs: must be a whole number, not .*'6'$",
        ),
        (("finetune", "msvd_qa", "max_steps"), "6", r"finetune\.msvd_qa\.max_steps: must be a whole number"),
        (("pretrain", "batch_size"), True, r"^params\.yaml: pretrain\.batch_size: must be a number, not true$"),
        (("pretrain", "learning_rate"), True, r"pretrain\.learning_rate: must be a number, not true"),
        (("init", "finetune"), "stage", r"init\.finetune: 'stage' is not a path; did you mean models/sample/pretrain\?"),
        (("init", "pretrain"), "scratch", r"init\.pretrain: .* did you mean recipes/init/scratch\.yaml\?"),
        (("init", "prompter"), "imagenet", r"init\.prompter: .* did you mean recipes/init/imagenet\.yaml\?"),
        (("init", "teacher"), "scratch", r"init\.teacher: .* did you mean models/sample/prompter\?"),
    ],
)
def test_contradictions_are_refused(raw: dict, path: tuple[str, ...], value: object, message: str) -> None:
    here = raw
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    with pytest.raises(ConfigError, match=message):
        config.parse(raw)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("msvd_qa", {"questions_per_clip": 3}, r"finetune\.msvd_qa: batch_size 16 is not a multiple of questions_per_clip 3"),
        ("msrvtt_ret", {"captions_per_clip": 3}, "batch_size 16 is not a multiple of captions_per_clip 3"),
        ("msvd_qa", {"captions_per_clip": 2}, r"finetune\.msvd_qa\.captions_per_clip: .* for qa; use questions_per_clip"),
        ("msrvtt_ret", {"questions_per_clip": 2}, r"msrvtt_ret\.questions_per_clip: .* for retrieval; use captions_per_clip"),
        ("msrvtt_ret", {"captions_per_clip": 2, "distinct_videos": False}, "captions_per_clip 2 needs distinct_videos: true"),
        ("msrvtt_ret", {"captions_per_clip": 16}, r"msrvtt_ret\.batch_size must be 32 or more with captions_per_clip 16"),
    ],
)
def test_contradictions_about_texts_per_clip_are_refused(raw: dict, task: str, changes: dict, message: str) -> None:
    raw["finetune"][task] |= {"batch_size": 16, "questions_per_clip": 1, "captions_per_clip": 1} | changes
    with pytest.raises(ConfigError, match=message):
        config.parse(raw)


def test_texts_per_clip_follow_from_the_task(raw: dict) -> None:
    raw["finetune"]["msvd_qa"] |= {"batch_size": 16, "questions_per_clip": 4}
    raw["finetune"]["msrvtt_ret"] |= {"batch_size": 16, "captions_per_clip": 8}
    finetune = config.parse(raw).finetune
    assert [finetune[name].texts_per_clip for name in ("msvd_qa", "msrvtt_ret", "didemo_ret")] == [4, 8, 1]


def test_number_that_yaml_reads_as_text_is_accepted(raw: dict) -> None:
    raw["finetune"]["msvd_qa"]["learning_rate"] = yaml.safe_load("1e-4")
    assert config.parse(raw).finetune["msvd_qa"].learning_rate == 0.0001


def test_batch_of_one_is_allowed_without_vtm(raw: dict) -> None:
    raw["finetune"]["msvd_qa"] |= {"batch_size": 1, "questions_per_clip": 1}
    raw["prompter"]["batch_size"] = raw["pretrain"]["batch_size"] = 1
    raw["pretrain"]["objectives"] = {"vtm": 0}
    assert config.parse(raw).pretrain.batch_size == 1


def test_missing_file_error_says_how_to_create_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="alpro recipe use sample"):
        config.load(tmp_path / "params.yaml")


def test_override_changes_only_its_parameter(raw: dict) -> None:
    raw["finetune"]["msvd_qa"]["questions_per_clip"] = 1
    before = copy.deepcopy(raw)
    changed = config.parse(
        override(raw, ["finetune.msvd_qa.batch_size=2", "pretrain.corpora=[cc3m]", "pretrain.objectives={pem: 0}", "seed=7"])
    )
    assert raw == before
    raw["finetune"]["msvd_qa"]["batch_size"], raw["seed"] = 2, 7
    raw["pretrain"] |= {"corpora": ["cc3m"], "objectives": {"pem": 0}}
    assert changed == config.parse(raw)


def test_override_can_enable_a_section(raw: dict) -> None:
    raw["sample"] = None
    assert config.parse(override(raw, ["sample.frame_size=224"])).sample == config.Sample(frame_size=224)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed=1,2", "is a sweep; run `dvc exp run --queue -S 'seed=1,2'`"),
        ("seed=${oc.env:HOME}", "not allowed"),
        ("~finetune.msvd_q", "no parameter finetune.msvd_q; did you mean 'msvd_qa'"),
        ("+seed=3", "seed exists"),
        ("seed", "must be key=value"),
        ("finetune.=3", "must be key=value"),
        ("finetune.msvdqa.batch_size=2", "no section finetune.msvdqa; did you mean 'msvd_qa'"),
        ("seed.of=2", "seed is a value"),
        ("seed=[", "must be key=value"),
        ("finetune.msvd_qa.batchsize=2", "did you mean 'batch_size'"),
        ("finetune.msvd_qa.batch_size=two", "batch_size"),
    ],
)
def test_invalid_override_is_refused(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(ROOT / "recipes/sample.yaml", [change])


@pytest.mark.parametrize(
    "change",
    [
        "seed=7", "finetune.msvd_qa.learning_rate=1e-4", "pretrain.corpora=[cc3m]", "pretrain.objectives={pem: 0, vtc: 1}",
        "~zeroshot.msrvtt_ret", "+finetune.msvd_qa.keep=[best,last]", "++seed=7", "init.finetune=models/my model/a.b.pt",
        "init.finetune='a,b=c.pt'", "launch.hosts=null",
    ],
)  # fmt: skip
def test_change_does_what_dvc_does(tmp_path: Path, change: str) -> None:
    hydra = pytest.importorskip("dvc.utils.hydra")
    raw = yaml.safe_load((ROOT / "recipes" / "sample.yaml").read_text())
    raw["finetune"]["msvd_qa"].pop("keep", None)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    hydra.apply_overrides(path, [change])
    assert override(raw, [change]) == yaml.safe_load(path.read_text())
