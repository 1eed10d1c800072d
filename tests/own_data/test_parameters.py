"""Parameters of an own dataset: nothing that a user wrote is lost, and what is written is a valid recipe."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from alpro.config import Model, load
from alpro.config.schema import with_schema_line
from alpro.errors import ConfigError, OutputError
from alpro.own_data import parameters
from alpro.own_data.machine import Machine
from alpro.own_data.sizes import Sizes, Split, choose_sizes
from alpro.own_data.start import SCRATCH, Start

MACHINE = Machine(cores=2, memory=8e9, gpus=0, flops=50e9)
START = Start(SCRATCH, Path("data/mine/vocabulary"))
PARAMS = Path("params.yaml")


def sizes(checkpoint: Model | None = None) -> Sizes:
    """Return the sizes of a small set."""
    return choose_sizes(
        "retrieval", Split(20, 40), Split(4, 8), tokens=20, vocab_size=300, seconds=3, answers=0, machine=MACHINE, minutes=1,
        checkpoint=checkpoint,
    )  # fmt: skip


def parts(recipe: str = "mine", checkpoint: Model | None = None) -> dict[str, dict[str, object]]:
    """Return the entries of a set `mine`."""
    return parameters.entries("mine", "retrieval", Path("data/mine/a.csv"), Path("/clips"), sizes(checkpoint), recipe)


def recipe() -> str:
    """Return the recipe `mine`."""
    return parameters.recipe_text("mine", parts(), START, sizes(), MACHINE, load(PARAMS), ["Recipe `mine`."])


def test_recipe_is_valid_has_only_this_set_and_becomes_params(project: Path) -> None:
    file = parameters.write_recipe("mine", recipe(), PARAMS)
    assert PARAMS.read_text() == with_schema_line(file.read_text())
    parameters.check_writable("mine", PARAMS, joins=False)
    written = load(PARAMS)
    assert (written.recipe, written.sample, list(written.datasets), written.corpora) == ("mine", None, ["mine"], {})
    assert (written.init.finetune, written.text.tokenizer) == (SCRATCH, "data/mine/vocabulary")
    assert written.evaluate["mine"].checkpoint == "models/mine/finetune/mine" and written.model == sizes().model
    assert written.finetune["mine"] == sizes().training


def test_recipe_is_written_again_only_if_nobody_changed_it(project: Path) -> None:
    file = parameters.write_recipe("mine", recipe(), PARAMS)
    parameters.check_writable("mine", PARAMS, joins=False)
    file.write_text(file.read_text().replace("seed: 42", "seed: 43"))
    with pytest.raises(OutputError, match=r"recipes/mine\.yaml: exists and is not as this command made it"):
        parameters.check_writable("mine", PARAMS, joins=False)


def test_recipe_of_somebody_else_is_not_replaced(project: Path) -> None:
    with pytest.raises(OutputError, match=r"recipes/paper\.yaml: exists"):
        parameters.check_writable("paper", PARAMS, joins=False)


def test_changed_params_are_replaced_only_if_a_commit_has_them(project: Path) -> None:
    PARAMS.write_text(PARAMS.read_text().replace("seed: 42", "seed: 43"))
    with pytest.raises(OutputError, match=r"params\.yaml: has changes that neither a commit nor a recipe has"):
        parameters.check_writable("mine", PARAMS, joins=False)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "params.yaml"], ["commit", "-q", "-m", "Params"]):
        subprocess.run([*git, *command], check=True)
    parameters.check_writable("mine", PARAMS, joins=False)


def test_entries_are_added_and_every_other_line_is_kept(project: Path) -> None:
    model = load(PARAMS).model
    before = PARAMS.read_text().splitlines()
    parameters.add_entries("mine", parts("sample", model), PARAMS)
    after = PARAMS.read_text().splitlines()
    kept = iter(after)
    assert all(line in kept for line in before), "the lines of before, in their order"
    added = load(PARAMS)
    assert added.evaluate["mine"].checkpoint == "models/sample/finetune/mine"
    assert {**yaml.safe_load("\n".join(before))["datasets"], "mine": parts("sample", model)["datasets"]} == yaml.safe_load(
        PARAMS.read_text()
    )["datasets"]
    assert list(added.datasets)[-1] == "mine" and len(added.datasets) == 5


def test_entries_are_added_to_sections_without_any(project: Path) -> None:
    raw = yaml.safe_load(PARAMS.read_text())
    raw |= {"datasets": {}, "finetune": {}, "evaluate": {}, "zeroshot": {}}
    PARAMS.write_text(yaml.safe_dump(raw, sort_keys=False))
    parameters.add_entries("mine", parts("sample", load(PARAMS).model), PARAMS)
    assert list(load(PARAMS).datasets) == ["mine"]


def test_name_that_is_taken_is_refused(project: Path) -> None:
    for name in ("msvd_qa", "webvid2m"):
        with pytest.raises(ConfigError, match=f"{name} is there already; remove its entries, or give another --name"):
            parameters.check_writable(name, PARAMS, joins=True)


def test_params_in_another_form_are_left_alone(project: Path) -> None:
    raw = yaml.safe_load(PARAMS.read_text())
    text = yaml.safe_dump({key: value for key, value in raw.items() if key != "datasets"})
    text += f"datasets: {yaml.safe_dump(raw['datasets'], default_flow_style=True, width=10**6)}"
    PARAMS.write_text(text)
    with pytest.raises(ConfigError):
        parameters.add_entries("mine", parts("sample", load(PARAMS).model), PARAMS)
    assert PARAMS.read_text() == text
