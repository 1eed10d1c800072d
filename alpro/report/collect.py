"""Collects the records of the stages into one summary (metrics of arXiv 2112.09583, section 4.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    """Record of one evaluation stage. `name` is the task, with `_zeroshot` if the model was not fine-tuned."""

    name: str
    task: str
    kind: str  # retrieval or qa
    folder: Path
    params: Mapping[str, Any]  # params.json
    metrics: Mapping[str, Any]  # metrics.json

    @property
    def zero_shot(self) -> bool:
        """True if the model was not fine-tuned."""
        return self.name.endswith(SUFFIX)

    def rows(self) -> list[dict[str, Any]]:
        """Read the predictions, one row per query."""
        return read_json_lines(self.folder / "predictions.jsonl", DataError, RERUN)


def read_evaluations(params: Params, root: Path) -> list[EvaluationRecord]:
    """Read the evaluation records under root, in the order of params.yaml; records of another recipe are skipped."""
    records = []
    for name, task in [*((task, task) for task in params.datasets), *((task + SUFFIX, task) for task in params.zeroshot)]:
        folder = root / "evaluate" / name
        if (folder / "metrics.json").is_file():
            record_params = read_json_object(folder / "params.json", DataError, RERUN)
            if record_params.get("recipe") == params.recipe:
                metrics = read_json_object(folder / "metrics.json", DataError, RERUN)
                kind = params.datasets[task].task
                records.append(EvaluationRecord(name, task, kind, folder, record_params, metrics))
    return records


def summarise(records: Sequence[EvaluationRecord]) -> dict[str, Entry]:
    """Return one entry per evaluation: `n`, metrics by official name, `ci95`, `chance` or `majority`, both ablations."""
    return {record.name: _retrieval(record) if record.kind == "retrieval" else _qa(record) for record in records}


def _retrieval(record: EvaluationRecord) -> Entry:
    """Return text-to-video metrics at the top level, as in the paper's tables, and video-to-text metrics below."""
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
    for name in ABLATIONS:
        if name in metrics:
            ablation = metrics[name]
            entry[name] = {**ablation["text2video"], "ci95": ablation["ci95"]["text2video"], "gain": ablation["gain"]}
    return entry


def _qa(record: EvaluationRecord) -> Entry:
    metrics = dict(record.metrics)
    other = ("n", "videos", "ratios", "ci95", "majority", "majority_answer", "top5_acc", "calibration_error", "motion")
    accuracies = {name: value for name, value in metrics.items() if name.endswith("_acc")}
    entry: Entry = {"task": "qa", **accuracies, **{name: metrics[name] for name in other if name in metrics}}
    for ablation in ABLATIONS:
        if ablation in metrics:
            entry[ablation] = {name: value for name, value in metrics[ablation].items() if name != "ratios"}
    return entry


@dataclass(frozen=True, slots=True)
class Curves:
    """Logged values of a training: split -> name -> points (step, value)."""

    stage: str
    splits: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]


def read_curves(tasks: Iterable[str], root: Path) -> list[Curves]:
    """Read the histories under root of the prompter, the pre-training and the fine-tunings of these tasks."""
    curves = []
    for stage in ("prompter", "pretrain", *(f"finetune/{task}" for task in tasks)):
        path = root / stage / "history.jsonl"
        if path.is_file():
            splits: dict[str, dict[str, list[tuple[float, float]]]] = {}
            for row in read_json_lines(path, DataError, RERUN):
                series = splits.setdefault(row.get("split", "train"), {})
                for name, value in row.items():
                    if name not in ("step", "epoch", "split") and isinstance(value, (int, float)):
                        series.setdefault(name, []).append((row["step"], value))
            curves.append(Curves(stage, splits))
    return curves
