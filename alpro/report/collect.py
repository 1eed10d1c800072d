"""What the stages' records say, gathered into the one summary that everybody quotes (figures of the paper's section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro.config import Params
from alpro.errors import DataError
from alpro.files.json_files import read_json_lines, read_json_object

SUFFIX = "_zeroshot"
ABLATIONS = ("blind", "one_frame")
RERUN = "run the stage that writes it again"
Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """One evaluation stage's record. `name` is the task, with `_zeroshot` where nothing was fine-tuned."""

    name: str
    task: str
    kind: str  # retrieval or qa
    folder: Path
    given: Mapping[str, Any]  # params.json
    metrics: Mapping[str, Any]  # metrics.json

    @property
    def zero_shot(self) -> bool:
        """Whether the model was not fine-tuned."""
        return self.name.endswith(SUFFIX)

    def rows(self) -> list[dict[str, Any]]:
        """The predictions, one row a query."""
        return read_json_lines(self.folder / "predictions.jsonl", DataError, RERUN)


def read_evaluations(params: Params, root: Path) -> list[EvaluationRecord]:
    """The evaluation records under root, in the order of params.yaml; those of another recipe are passed over."""
    found = []
    for name, task in [*((task, task) for task in params.datasets), *((task + SUFFIX, task) for task in params.zeroshot)]:
        folder = root / "evaluate" / name
        if (folder / "metrics.json").is_file():
            given = read_json_object(folder / "params.json", DataError, RERUN)
            if given.get("recipe") == params.recipe:
                metrics = read_json_object(folder / "metrics.json", DataError, RERUN)
                found.append(EvaluationRecord(name, task, params.datasets[task].task, folder, given, metrics))
    return found


def summarise(records: Sequence[EvaluationRecord]) -> dict[str, Entry]:
    """One entry an evaluation: `n`, metrics under their official names, `ci95`, `chance` or `majority`, both ablations."""
    return {record.name: _retrieval(record) if record.kind == "retrieval" else _qa(record) for record in records}


def _retrieval(record: EvaluationRecord) -> Entry:
    """Text to video on the first level, as the paper's tables; video to text beneath."""
    metrics = record.metrics
    entry: Entry = {
        "task": "retrieval",
        "n": metrics["n"],
        "videos": metrics["videos"],
        **metrics["text2video"],
        "ci95": metrics["ci95"]["text2video"],
        "video2text": {**metrics["video2text"], "ci95": metrics["ci95"]["video2text"]},
        "chance": metrics["chance"],
    }
    for look in ABLATIONS:
        if look in metrics:
            of = metrics[look]
            entry[look] = {**of["text2video"], "ci95": of["ci95"]["text2video"], "gain": of["gain"]}
    return entry


def _qa(record: EvaluationRecord) -> Entry:
    metrics = dict(record.metrics)
    kept = ("n", "videos", "ratios", "ci95", "majority", "majority_answer", "top5_acc", "calibration_error", "motion")
    accuracies = {name: value for name, value in metrics.items() if name.endswith("_acc")}
    entry: Entry = {"task": "qa", **accuracies, **{name: metrics[name] for name in kept if name in metrics}}
    for look in ABLATIONS:
        if look in metrics:
            entry[look] = {name: value for name, value in metrics[look].items() if name != "ratios"}
    return entry


@dataclass(frozen=True, slots=True)
class Curves:
    """A training's figures by step: split -> name -> points (step, value)."""

    stage: str
    splits: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]


def read_curves(params: Params, root: Path) -> list[Curves]:
    """The histories of the trainings under root, the prompter's first."""
    found = []
    for stage in ("prompter", "pretrain", *(f"finetune/{task}" for task in params.datasets)):
        path = root / stage / "history.jsonl"
        if path.is_file():
            splits: dict[str, dict[str, list[tuple[float, float]]]] = {}
            for row in read_json_lines(path, DataError, RERUN):
                series = splits.setdefault(row.get("split", "train"), {})
                for name, value in row.items():
                    if name not in ("step", "epoch", "split") and isinstance(value, (int, float)):
                        series.setdefault(name, []).append((row["step"], value))
            found.append(Curves(stage, splits))
    return found
