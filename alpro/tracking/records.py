"""Stage records (reports/<stage>/) as MLflow takes them: flat parameters, points of curves, final figures, files.

A record is a folder with params.json (what the stage was given), history.jsonl (one object a logged step:
`{"step": 10, "epoch": 0, "split": "train", "loss": 3.2}`), metrics.json (final figures) and files to look at.
It is known by its content, never by a run id: whoever restores the folder from DVC's cache restores the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro.config import Params
from alpro.config.pipeline import made_by_pipeline
from alpro.errors import TrackingError
from alpro.files.atomic import sha256
from alpro.files.json_files import read_json, read_json_lines

Point = tuple[str, int, float]
"""Curve, step, value."""

FACTS = ("params.json", "history.jsonl", "metrics.json")
"""The files that say which run a record is; the others only show it."""

LONGEST = 6000  # characters of a parameter's value that MLflow keeps


@dataclass(frozen=True)
class Record:
    """One stage's record. `stage` is its folder under reports/, as `finetune/msrvtt_ret`."""

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
        """`prompter`, `pretrain`, `finetune`, `evaluate`, `validate`."""
        return self.stage.split("/")[0]

    @property
    def task(self) -> str:
        """The data set of a stage that has one, else the stage itself."""
        return self.stage.split("/")[-1]


def read_records(root: Path, params: Params) -> list[Record]:
    """The records under reports/ of the stages that `params` asks for, in the pipeline's order.

    What stages of another recipe, or replaced ones, left behind is passed over. Raises TrackingError, naming file and
    line, where a record is damaged.
    """
    reports = Path(root) / "reports"
    folders = sorted({file.parent for name in FACTS[::2] for file in reports.rglob(name)} - {reports})
    order = ["validate", "prompter", "pretrain", "finetune", "evaluate"]
    records = [
        _read(folder, folder.relative_to(reports).as_posix(), [other for other in folders if other != folder])
        for folder in folders
        if wanted(folder.relative_to(reports).as_posix(), params)
    ]
    return sorted(records, key=lambda record: (order.index(record.kind) if record.kind in order else len(order), record.stage))


def wanted(stage: str, params: Params) -> bool:
    """Whether the pipeline that `params` describes has this stage."""
    kind, _, name = stage.partition("/")
    prefix = f"models/{params.recipe}/"
    made = {output.removeprefix(prefix) for output in made_by_pipeline(params)}
    if kind in ("prompter", "pretrain"):
        return kind in made
    names = {
        "finetune": {output.removeprefix("finetune/") for output in made},
        "evaluate": {*params.evaluate, *(f"{task}_zeroshot" for task in params.zeroshot)},
        "validate": {*params.datasets, *params.corpora},
    }.get(kind)
    return names is None or name in names


def row_points(row: Mapping[str, Any]) -> Iterator[Point]:
    """The points of one line of a history: `val/r1` and the like; what is no number is passed over."""
    step, split = int(row["step"]), row.get("split", "train")
    for key, value in flat_numbers({name: v for name, v in row.items() if name not in ("step", "split")}).items():
        yield f"{split}/{key}", step, value


def flat_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Nested parameters as `pretrain.objectives.vtc` -> text; lists stay one value."""
    found: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            found |= {f"{_name(key)}.{inner}": text for inner, text in flat_params(value).items()}
        else:
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
            found[_name(key)] = text[:LONGEST]
    return found


def flat_numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """Nested figures as `ci95/r1/low` -> number; a list of two is an interval, text is passed over."""
    found: dict[str, float] = {}
    for key, value in figures.items():
        if isinstance(value, (list, tuple)):
            names = ("low", "high") if len(value) == 2 else tuple(map(str, range(len(value))))
            value = dict(zip(names, value, strict=True))
        if isinstance(value, Mapping):
            found |= {f"{_name(key)}/{inner}": number for inner, number in flat_numbers(value).items()}
        elif isinstance(value, (int, float)):
            found[_name(key)] = float(value)
    return found


def _name(key: Any) -> str:
    """A key in the letters that MLflow takes."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in str(key))


def _read(folder: Path, stage: str, others: Sequence[Path]) -> Record:
    inner = [other for other in others if folder in other.parents]
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and not any(other in f.parents for other in inner)]
    params = _json(folder / "params.json")
    points = {(key, step): value for row in _lines(folder / "history.jsonl") for key, step, value in row_points(row)}
    final = flat_numbers(_json(folder / "metrics.json"))
    if points:  # a training: its final figures must not be taken for another point of a curve
        final = {f"final/{key}": value for key, value in final.items()}
    facts = [f for f in files if f.parent == folder and f.name in FACTS]
    return Record(
        stage=stage,
        folder=folder,
        params=flat_params(params),
        points=[(key, step, value) for (key, step), value in points.items()],
        final=final,
        files=files,
        digest=_digest(folder, facts, stage),
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
