"""Output of DVC's own commands: tables of at most 160 columns, and charts that need no network."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from alpro.config import load
from alpro.evaluation.run import headline as evaluated
from alpro.training.record import headline as trained
from alpro.training.task import Best

from .browser import CHROMIUM, missing

ROOT = Path(__file__).parents[1]
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
COLUMNS = 160
EXPERIMENT = len("  ├── 46474b3 [flawy-yapp]   10:58 AM   ")  # what `dvc exp show` prints left of the metrics


def outputs(recipe: str) -> dict[str, list[str]]:
    """Return the paths of all stages' outputs by kind: outs, metrics."""
    params = yaml.safe_load((ROOT / f"recipes/{recipe}.yaml").read_text())
    found: dict[str, list[str]] = {"outs": [], "metrics": []}
    for stage in PIPELINE["stages"].values():
        keys = params.get(str(stage.get("foreach", "")).strip("${}")) or [""]
        for kind, key in ((kind, key) for kind in found for key in keys):
            listed = [next(iter(out)) if isinstance(out, dict) else out for out in stage.get("do", stage).get(kind, ())]
            found[kind] += [path.replace("${key}", key).replace("${recipe}", recipe) for path in listed]
    return found


def headlines(recipe: str) -> dict[str, float]:
    """Return all metrics of a recipe, as the stages write them."""
    params = load(ROOT / f"recipes/{recipe}.yaml")
    best = Best(1, 1.0, {"vtc": 1.0, "loss": 1.0})
    shown = trained("prompter", params.prompter.select_by, best) | trained("pretrain", params.pretrain.select_by, best)
    for zero_shot, tasks in ((False, params.evaluate), (True, params.zeroshot)):
        for task in tasks:
            shown |= evaluated(task, zero_shot, {"overall_acc": 1.0})
    return shown


@pytest.mark.parametrize("recipe", ["tiny", "sample", "official", "paper"])
def test_metrics_fit_the_screen(recipe: str) -> None:
    files, names = outputs(recipe)["metrics"], headlines(recipe)
    assert {Path(file).name for file in files} == {"headline.json"} and len(files) == len(names) == 8
    assert max(map(len, files)) + sum(len(name) + 4 for name in names) <= COLUMNS, "dvc metrics show"
    assert EXPERIMENT + sum(max(len(name), 6) + 3 for name in names) <= COLUMNS, "dvc exp show, without parameters"


def plots() -> list[tuple[str, dict[str, Any]]]:
    """Return the top-level plots: name and definition."""
    return [next(iter(entry.items())) for entry in PIPELINE["plots"]]


def test_every_plot_draws_outputs_with_a_template_and_labels() -> None:
    made = outputs("sample")["outs"]
    for name, plot in plots():
        assert {"title", "template", "x", "y"} <= set(plot), name
        template = (ROOT / f".dvc/plots/{plot['template']}.json").read_text()
        assert "<DVC_METRIC_DATA>" in template and json.loads(template)["$schema"].endswith("vega-lite/v5.json")
        for file in plot["y"]:
            assert any(file == out or file.startswith(f"{out}/") for out in made), (name, file)


def example_rows(plot: dict[str, Any], fields: list[str]) -> list[dict[str, Any]]:
    """Return two rows with all columns that the plot's template reads."""
    columns = re.findall(r"datum\.(\w+)|\"field\": \"(\w+)\"", (ROOT / f".dvc/plots/{plot['template']}.json").read_text())
    names = {plot["x"], *fields, *(a or b for a, b in columns)} - {"rev", "filename", "series", "total", "share", "n", "y", "a"}
    text = {"ranks", "direction", "type", "video", "actual", "predicted", "field"}
    return [{name: f"{name}{n}" if name in text else n for name in sorted(names)} for n in (1, 2)]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Make a project with this pipeline's plots and two rows for each; return the page of `dvc plots show`."""
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"plots": PIPELINE["plots"]}))
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    shutil.copy(ROOT / ".dvc/config", tmp_path / ".dvc/config")
    shutil.copytree(ROOT / ".dvc/plots", tmp_path / ".dvc/plots")
    shutil.copytree(ROOT / "alpro/report/vega", tmp_path / "alpro/report/vega")
    for _, plot in plots():
        for file, fields in plot["y"].items():
            rows = example_rows(plot, [fields] if isinstance(fields, str) else fields)
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            with (tmp_path / file).open("w", newline="") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    subprocess.run([sys.executable, "-m", "dvc", "plots", "show", "-q"], cwd=tmp_path, check=True)
    return tmp_path / "dvc_plots/index.html"


def test_page_of_the_plots_needs_no_network(page: Path) -> None:
    html = page.read_text()
    assert html.count("vegaEmbed('#") == len(plots())
    scripts = re.findall(r'src="([^"]+)"', html)
    assert len(scripts) == 3 and all((page.parent / script).resolve().is_file() for script in scripts)
    assert "//cdn" not in html


@pytest.mark.slow
def test_browser_draws_every_plot(page: Path, tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    titles = [plot["title"] for _, plot in plots()]
    shown = [{"name": "plots", "url": page.as_uri(), "texts": titles}]
    given = {"chromium": CHROMIUM, "out": str(tmp_path), "patience_s": 60, "pages": shown}
    script = Path(__file__).with_name("pages.cjs")
    done = subprocess.run(["node", str(script), json.dumps(given)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
