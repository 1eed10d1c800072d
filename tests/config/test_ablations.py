"""Every cell of the paper's ablations can be set by parameters and trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from alpro.config import Params, load
from alpro.config.ablations import Cell, cells, table

ROOT = Path(__file__).parents[2]
CELLS = cells()
CHANGING = list({cell.changes: cell for cell in CELLS if cell.changes}.values())


def name(cell: Cell) -> str:
    return f"{cell.ablation}-{cell.name}".replace(" ", "-")


def leaves(value: object, path: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {path: value}
    return {key: leaf for k, inner in value.items() for key, leaf in leaves(inner, f"{path}.{k}".lstrip(".")).items()}


@pytest.mark.parametrize("recipe", ["tiny", "paper"])
@pytest.mark.parametrize("cell", CELLS, ids=name)
def test_cell_changes_only_the_parameters_it_names(cell: Cell, recipe: str) -> None:
    file = ROOT / "recipes" / f"{recipe}.yaml"
    before, after = (leaves(load(file, changes).model_dump()) for changes in ((), cell.changes))
    named = {change.split("=")[0]: yaml.safe_load(change.split("=")[1]) for change in cell.changes}
    assert {key: after[key] for key in named} == named
    assert {key for key in after if after[key] != before[key]} <= set(named)


def test_cells_equal_to_recipe_paper_have_the_main_figures() -> None:
    paper = load(ROOT / "recipes/paper.yaml")
    own = [cell for cell in CELLS if load(ROOT / "recipes/paper.yaml", cell.changes) == paper]
    assert {(cell.ablation, cell.name) for cell in own} >= {
        ("objectives", "all"),
        ("prompts", "ensemble"),
        ("entities", "1000"),
    }
    assert {cell.paper["msrvtt_ret"] for cell in own} == {33.9}


def test_no_entities_means_no_pem() -> None:
    params = load(ROOT / "recipes/tiny.yaml")
    assert params.pem and not load(ROOT / "recipes/tiny.yaml", ["entities.number=0"]).pem


def test_table_has_a_command_for_each_cell() -> None:
    text = table(load(ROOT / "recipes/paper.yaml").datasets)
    assert all(cell.command in text for cell in CELLS) and "24.7" in text


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recipe tiny's data, vocabulary, entities and prompter."""
    from alpro.data.sample import make_sample
    from alpro.data.words.prepare import make_entities, make_vocabulary
    from alpro.training.run import run_training

    root = tmp_path_factory.mktemp("ablations")
    (root / "recipes").symlink_to(ROOT / "recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("ALPRO_LIVE", "off")
        params = _params(())
        assert params.sample is not None
        make_sample(params.sample, root / "data/sample", workers=1)
        make_vocabulary(params, Path(params.text.tokenizer))
        make_entities(params, Path("models/tiny/entities"))
        places = {"output": Path(params.init.teacher), "record": Path("reports/prompter")}
        run_training(params, "prompter", None, init="recipes/init/scratch.yaml", teacher=None, **places, max_steps=2)
    return root


def _params(changes: tuple[str, ...]) -> Params:
    """Return tiny's parameters with a cell's changes, with random weights instead of ImageNet's."""
    here = [change.replace("imagenet.yaml", "scratch.yaml") for change in changes]
    return load(ROOT / "recipes/tiny.yaml", here)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CHANGING, ids=name)
def test_cell_trains_and_is_evaluated(cell: Cell, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alpro.evaluation.run import run_evaluation
    from alpro.training.run import run_training

    monkeypatch.chdir(project)
    monkeypatch.setenv("ALPRO_LIVE", "off")
    params = _params(cell.changes)
    start = params.init.finetune
    if start == "models/tiny/pretrain":
        places = {"output": tmp_path / "pretrain", "record": tmp_path / "pretrain-record"}
        teacher = params.init.teacher if params.pem else None
        run_training(params, "pretrain", None, init="recipes/init/scratch.yaml", teacher=teacher, **places, max_steps=2)
        rows = [json.loads(line) for line in (places["record"] / "history.jsonl").read_text().splitlines()]
        on = {key for key, weight in params.pretrain.objectives.model_dump().items() if weight} - (
            set() if params.pem else {"pem"}
        )
        assert {key for key in ("vtc", "vtm", "mlm", "pem") if key in rows[0]} == on
        start = str(places["output"])
    for task in ("msrvtt_ret", "msvd_qa"):
        model, record = tmp_path / task, tmp_path / f"{task}-record"
        run_training(params, "finetune", task, init=start, teacher=None, output=model, record=record, max_steps=2)
        figures = run_evaluation(params, task, checkpoint=model, record=tmp_path / f"{task}-figures", modes=("full",))
        value = figures["text2video"]["r1"] if task == "msrvtt_ret" else figures["overall_acc"]
        assert 0 <= value <= 100
        assert json.loads((model / "config.json").read_text())["num_frames"] == params.finetune[task].num_frames
