"""Model card of a folder in the Hub's layout: a YAML header for the Hub's search, and a page for readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro.errors import DataError
from alpro.evaluation.compare import figure
from alpro.files.json_files import read_json_object
from alpro.registry.card import LIMITS, METRICS, PURPOSE, SYNTHETIC

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

REPORTS = Path("reports/evaluate")
PAPER = "https://arxiv.org/abs/2112.09583"
TAGS = ("alpro", "video", "video-and-language", "model_hub_mixin")
PIPELINES = {"qa": "visual-question-answering"}  # the others give features and scores of pairs
METRIC_TYPES = {
    "text2video.r": "recall",
    "text2video.medianR": "median_rank",
    "video2text.r": "recall",
    "overall_acc": "accuracy",
}
MADE = ("data/sample/", "models/sample/", "models/tiny/", "recipes/init/scratch.yaml")  # inputs that hold no real data
LICENCES = {  # identifier on the Hub -> sentence of the card
    "bsd-3-clause": "BSD-3-Clause, as the code. The model was trained only on generated videos.",
    "other": "The code is under BSD-3-Clause. The weights may be used as far as the licences of the training data allow.",
}
CALLS = {
    "qa": 'model.ask("video.mp4", "what is the man doing?")   # the five most likely answers',
    "retrieval": 'model.match("video.mp4", ["a man cooks", "a dog runs"])   # VTM\'s probability and VTC\'s similarity',
}
CITATION = """\
```bibtex
@inproceedings{li2021align,
  title={Align and Prompt: Video-and-Language Pre-training with Entity Prompts},
  author={Dongxu Li and Junnan Li and Hongdong Li and Juan Carlos Niebles and Steven C. H. Hoi},
  booktitle={Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2022}
}
```"""


@dataclass(frozen=True)
class Results:
    """Metrics of the evaluation of certain weights on one dataset."""

    dataset: str
    split: str
    metrics: Mapping[str, Any]

    def figures(self) -> list[tuple[str, float, tuple[float, float] | None]]:
        """Return name, value in percent (a rank for medianR) and 95 % interval of each metric."""
        found = [(name, *figure(self.metrics, name)) for name in METRICS]
        return [(name, value, interval) for name, value, interval in found if value is not None]


def find_results(weights_sha256: str, reports: Path = REPORTS) -> list[Results]:
    """Return the evaluations in a folder of reports that were made with exactly these weights, ordered by dataset.

    Raises DataError if a report is damaged.
    """
    found = []
    for params_file in sorted(reports.glob("*/params.json")):
        metrics_file = params_file.with_name("metrics.json")
        hint = f"run `dvc repro evaluate@{params_file.parent.name}` again"
        params = read_json_object(params_file, DataError, hint)
        if params.get("checkpoint_sha256") == weights_sha256 and metrics_file.is_file():
            metrics = read_json_object(metrics_file, DataError, hint)
            split = params.get("evaluate", {}).get("split", "test") if isinstance(params.get("evaluate"), dict) else "test"
            found.append(Results(params_file.parent.name.removesuffix("_zeroshot"), split, metrics))
    return found


def licence_of(config: Mapping[str, Any]) -> str:
    """Return the Hub's name of the weights' licence: bsd-3-clause if their inputs were only generated data, else other."""
    inputs = config.get("inputs")
    entries = list(inputs.values()) if isinstance(inputs, Mapping) else []
    paths = [str(entry.get("path")) for entry in entries if isinstance(entry, Mapping)]
    return "bsd-3-clause" if paths and all(path.startswith(MADE) for path in paths) else "other"


def model_card(
    config: Mapping[str, Any], results: Sequence[Results], licence: str | None = None, name: str = "ORG/NAME"
) -> str:
    """Return README.md of a model.

    config: content of its config.json; licence: an identifier of the Hub (default: see `licence_of`); name: the folder or
    repository in the example.
    """
    licence = licence or licence_of(config)
    task = str(config["task"])
    dataset = str((config.get("trained") or {}).get("task") or "")
    title = f"ALPRO: {task}" + (f", fine-tuned on {dataset}" if dataset else "")
    frames, tokens = config["num_frames"], config["viewing"]["max_text_tokens"]
    size = config["model"]["image_size"]
    synthetic = SYNTHETIC if licence_of(config) == "bsd-3-clause" else ""
    purpose = PURPOSE[task].format(task=dataset or "a dataset that it does not name")
    lines = [
        "---", _header(config, results, licence, title).to_yaml().strip(), "---", "", f"# {title}", "",
        f"{purpose} ALPRO: [Align and Prompt]({PAPER}) (CVPR 2022).", "",
        f"It sees {frames} frames of a clip at {size} x {size} pixels, and {tokens} tokens of a text.", "",
        "## Use", "", "```python", "import alpro", "", f'model = alpro.from_pretrained("{name}")',
        CALLS.get(task, CALLS["retrieval"]), "```", "",
        "## Results", "", *_results(results), "",
        "## Training", "", *_training(config), "",
        "## Limits", "", f"{synthetic}{LIMITS.format(frames=frames)}", "",
        "## Licence", "", LICENCES.get(licence, f"`{licence}`. The code is under BSD-3-Clause."), "",
        "## Citation", "", CITATION, "",
    ]  # fmt: skip
    return "\n".join(lines)


def _header(config: Mapping[str, Any], results: Sequence[Results], licence: str, title: str) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    pipeline, kind = PIPELINES.get(str(config["task"]), "feature-extraction"), str(config["task"])
    evaluations = [
        EvalResult(
            task_type=pipeline, dataset_type=result.dataset, dataset_name=result.dataset, dataset_split=result.split,
            metric_type=_metric_type(metric), metric_name=metric, metric_value=round(value, 2),
        )
        for result in results
        for metric, value, _ in result.figures()
    ]  # fmt: skip
    data: dict[str, Any] = {"eval_results": evaluations, "model_name": title} if evaluations else {}
    if licence == "other":
        data["license_name"] = "training-data"
    metrics = sorted({_metric_type(metric) for result in results for metric, _, _ in result.figures()})
    return ModelCardData(
        language="en", license=licence, library_name="alpro", pipeline_tag=pipeline, tags=[*TAGS, kind],
        metrics=metrics or ["accuracy" if kind == "qa" else "recall"], **data,
    )  # fmt: skip


def _metric_type(metric: str) -> str:
    return next(kind for start, kind in METRIC_TYPES.items() if metric.startswith(start))


def _results(results: Sequence[Results]) -> list[str]:
    if not results:
        return ["These weights were not evaluated when the folder was written."]
    rows = [
        "In percent, with 95 % confidence intervals; medianR is a rank.",
        "",
        "| dataset | split | metric | value | interval |",
    ]
    rows.append("|---|---|---|---|---|")
    for result in results:
        for metric, value, interval in result.figures():
            shown = f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else ""
            rows.append(f"| {result.dataset} | {result.split} | {metric} | {value:.1f} | {shown} |")
    return rows


def _training(config: Mapping[str, Any]) -> list[str]:
    trained, inputs = config.get("trained"), config.get("inputs")
    if not isinstance(trained, Mapping) or not isinstance(inputs, Mapping):
        return ["The checkpoint does not say how it was trained."]
    rows = [f"Stage {trained.get('stage')}, seed {trained.get('seed')}, step {trained.get('step')}, on:", ""]
    for name, entry in inputs.items():
        rows.append(f"- {name}: `{entry.get('path')}` (sha256 `{str(entry.get('digest'))[:16]}…`)")
    return rows
