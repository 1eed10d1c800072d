"""Committed comparison of pre-training with training from scratch over several seeds: benchmarks/baseline.json.

{"command": "make baseline", "date": "2026-01-31", "recipe": "sample", "seeds": [42, 43, 44],
 "tasks": {"msrvtt_ret": {"metric": "r1", "pretrained": [30.1, 29.4, 31.0], "scratch": [20.2, 19.0, 21.3]}}}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alpro.errors import DataError
from alpro.files.json_files import read_json_object

PATH = Path("benchmarks/baseline.json")


class TaskBaseline(BaseModel):
    """The metric of one task with and without pre-training, for each seed, in percent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    pretrained: list[float] = Field(min_length=1)
    scratch: list[float] = Field(min_length=1)

    @property
    def gain(self) -> float:
        """Gain from pre-training, averaged over the seeds."""
        return mean(self.pretrained) - mean(self.scratch)


class Baseline(BaseModel):
    """Content of benchmarks/baseline.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str
    date: str
    recipe: str
    seeds: list[int]
    tasks: dict[str, TaskBaseline]

    @model_validator(mode="after")
    def _check_lengths(self) -> Baseline:
        for name, task in self.tasks.items():
            if not len(task.pretrained) == len(task.scratch) == len(self.seeds):
                raise ValueError(f"{name}: {len(self.seeds)} seeds, but another number of `pretrained` or `scratch` values")
        return self


@dataclass(frozen=True, slots=True)
class BaselineRow:
    """One row of the baseline table."""

    task: str
    metric: str
    pretrained: float
    pretrained_stdev: float
    scratch: float
    scratch_stdev: float
    gain: float
    gains: list[float]  # by seed


def read_baseline(path: Path = PATH) -> Baseline | None:
    """Return the committed baseline; None if there is none yet. Raises DataError for an invalid file."""
    if not path.is_file():
        return None
    content = read_json_object(path, DataError, "`make baseline` writes it")
    if not content.get("tasks"):
        return None
    try:
        return Baseline.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(name) for name in fault["loc"])
        raise DataError(f"{path}: {key + ': ' if key else ''}{fault['msg']}; `make baseline` writes it") from None


def baseline_rows(baseline: Baseline) -> list[BaselineRow]:
    """Return the rows of the table: means and standard deviations over the seeds, and the gain of each seed."""
    rows = []
    for name, task in baseline.tasks.items():
        means, stdevs = zip(*((mean(arm), _stdev(arm)) for arm in (task.pretrained, task.scratch)), strict=True)
        rows.append(BaselineRow(name, task.metric, means[0], stdevs[0], means[1], stdevs[1], task.gain, _gains(task)))
    return rows


def _stdev(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _gains(task: TaskBaseline) -> list[float]:
    return [a - b for a, b in zip(task.pretrained, task.scratch, strict=True)]
