"""Reads stage records (reports/<stage>/) in the form that MLflow needs: flat parameters, curve points, final metrics, files.

A record is a folder with params.json (inputs of the stage), history.jsonl (one object per logged step:
`{"step": 10, "epoch": 0, "split": "train", "loss": 3.2}`), metrics.json (final metrics) and other files such as plots.
A record is identified by its content, not by a run id, so restoring the folder from DVC's cache restores the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro.config import Params
from alpro.config.pipeline import pipeline_outputs
from alpro.errors import TrackingError
from alpro.files.atomic import sha256
from alpro.files.json_files import read_json, read_json_lines
from alpro.files.outputs import MANIFEST

Point = tuple[str, int, float]
"""Metric name, step, value."""

CONTENT_FILES = ("params.json", "history.jsonl", "metrics.json")
"""The files whose content identifies a record. Other files, such as plots, are derived from them."""

FINAL = "weights"  # the kept weights of a training: best step, last losses, and the validation by which they were chosen
MAX_PARAM_CHARS = 6000  # MLflow's limit for the value of a parameter


@dataclass(frozen=True)
class StageRecord:
    """Record of one stage. `stage` is its folder below reports/, for example `finetune/msrvtt_ret`."""

    stage: str
    folder: Path
    params: Mapping[str, str]
    points: Sequence[Point]
    final: Mapping[str, float]
    files: Sequence[Path]
    digest: str
    files_digest: str

    @property
    def kind(self) -> str:
        """Kind of stage: `prompter`, `pretrain`, `finetune`, `evaluate` or `validate`."""
        return self.stage.split("/")[0]

    @property
    def task(self) -> str:
        """Dataset of the stage if it has one, otherwise the stage itself."""
        return self.stage.split("/")[-1]


def read_records(root: Path, params: Params) -> list[StageRecord]:
    """Return the records below reports/ of the stages that `params` describes, in the pipeline's order.

    Records of other recipes and of replaced stages are ignored. Raises TrackingError with file and line if a record is
    damaged.
    """
    reports = Path(root) / "reports"
    folders = sorted({file.parent for name in ("params.json", "metrics.json") for file in reports.rglob(name)} - {reports})
    order = ["validate", "prompter", "pretrain", "finetune", "evaluate"]
    records = [
        _read(folder, folder.relative_to(reports).as_posix(), [other for other in folders if other != folder])
        for folder in folders
        if has_stage(folder.relative_to(reports).as_posix(), params)
    ]
    return sorted(records, key=lambda record: (order.index(record.kind) if record.kind in order else len(order), record.stage))


def has_stage(stage: str, params: Params) -> bool:
    """Return True if the pipeline that `params` describes has this stage."""
    kind, _, name = stage.partition("/")
    prefix = f"models/{params.recipe}/"
    outputs = {output.removeprefix(prefix) for output in pipeline_outputs(params)}
    if kind in ("prompter", "pretrain"):
        return kind in outputs
    names = {
        "finetune": {output.removeprefix("finetune/") for output in outputs},
        "evaluate": {*params.evaluate, *(f"{task}_zeroshot" for task in params.zeroshot)},
        "validate": {*params.datasets, *params.corpora},
    }.get(kind)
    return names is None or name in names


def row_points(row: Mapping[str, Any]) -> Iterator[Point]:
    """Yield the points of one history line, named like `val/r1`. Values that are not numbers are skipped."""
    step, split = int(row["step"]), row.get("split", "train")
    for key, value in flat_numbers({name: v for name, v in row.items() if name not in ("step", "split")}).items():
        yield f"{split}/{key}", step, value


def flat_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Flatten nested parameters to names like `pretrain.objectives.vtc` and text values. A list is one value."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{_name(key)}.{inner}": text for inner, text in flat_params(value).items()}
        else:
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
            flat[_name(key)] = text[:MAX_PARAM_CHARS]
    return flat


def flat_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Flatten nested metrics to names like `ci95/r1/low`. A list of two is an interval; text is skipped."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, (list, tuple)):
            names = ("low", "high") if len(value) == 2 else tuple(map(str, range(len(value))))
            value = dict(zip(names, value, strict=True))
        if isinstance(value, Mapping):
            flat |= {f"{_name(key)}/{inner}": number for inner, number in flat_numbers(value).items()}
        elif isinstance(value, (int, float)):
            flat[_name(key)] = float(value)
    return flat


def _name(key: Any) -> str:
    """Return the key with every character that MLflow rejects replaced by `_`."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in str(key))


def _read(folder: Path, stage: str, others: Sequence[Path]) -> StageRecord:
    inner = [other for other in others if folder in other.parents]
    files = [
        f
        for f in sorted(folder.rglob("*"))
        if f.is_file() and f.name != MANIFEST and not any(other in f.parents for other in inner)
    ]
    params = _json(folder / "params.json")
    points = {(key, step): value for row in _lines(folder / "history.jsonl") for key, step, value in row_points(row)}
    final = flat_numbers(_json(folder / "metrics.json"))
    if points:  # a training: keep its final metrics apart from the curves' points, and below them in MLflow's alphabet
        final = {f"{FINAL}/{key}": value for key, value in final.items()}
    content = [f for f in files if f.parent == folder and f.name in CONTENT_FILES]
    return StageRecord(
        stage=stage,
        folder=folder,
        params=flat_params(params),
        points=[(key, step, value) for (key, step), value in points.items()],
        final=final,
        files=files,
        digest=_digest(folder, content, stage),
        files_digest=_digest(folder, files, stage),
    )


def _digest(folder: Path, files: Sequence[Path], stage: str) -> str:
    listing = [stage, *(f"{sha256(file)}  {file.relative_to(folder).as_posix()}" for file in files)]
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = read_json(path, TrackingError, _restore_hint(path))
    return content if isinstance(content, dict) else {"value": content}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for number, row in enumerate(read_json_lines(path, TrackingError, _restore_hint(path)), 1):
        try:
            row["step"] = int(row["step"])
        except (ValueError, KeyError, TypeError):
            raise TrackingError(f"{path}: line {number}: `step` is missing or not a number; {_restore_hint(path)}") from None
        yield row


def _restore_hint(path: Path) -> str:
    return f"`dvc checkout {path.parent}` restores the stage's record"
