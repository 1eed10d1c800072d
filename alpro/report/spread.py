"""Mean and spread of DVC experiments that differ only in their seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from alpro.errors import DataError, nearest
from alpro.lineage.experiments import Experiment
from alpro.report.table import make_table

SEED = "seed"


@dataclass(frozen=True, slots=True)
class Group:
    """Experiments with the same parameters but for the seed. `settings`: those in which the groups differ."""

    settings: Mapping[str, Any]
    values: dict[str, dict[int, float]] = field(default_factory=dict)  # metric -> seed -> value

    @property
    def seeds(self) -> list[int]:
        """All seeds of the group."""
        return sorted({seed for values in self.values.values() for seed in values})

    def as_dict(self) -> dict[str, Any]:
        """Return settings, seeds and metrics with mean and standard deviation (None for a single seed) as plain JSON types."""
        metrics = {
            name: {"mean": mean(by_seed.values()), "stdev": _stdev(by_seed), "n": len(by_seed), "values": by_seed}
            for name, by_seed in self.values.items()
        }
        return {"settings": dict(self.settings), "seeds": self.seeds, "metrics": metrics}


def select(experiments: Sequence[Experiment], names: Sequence[str]) -> list[Experiment]:
    """Return the experiments with these names, or whose names begin with `NAME-`, as those of a sweep do; all without names.

    Raises DataError if a name fits none, or if there are no experiments at all.
    """
    if not experiments:
        raise DataError("no experiment has results; run `dvc exp run --queue -S 'seed=42,43,44'` and `dvc exp run --run-all`")
    for name in names:
        if not any(_fits(experiment, name) for experiment in experiments):
            raise DataError(f"there is no experiment {name!r} with results{nearest(name, [e.name for e in experiments])}")
    return [e for e in experiments if not names or any(_fits(e, name) for name in names)]


def group_by_seed(experiments: Sequence[Experiment]) -> list[Group]:
    """Group experiments, given newest first, by all parameters in which they differ, except the seed.

    Of two experiments with the same parameters and seed, the newest counts.
    """
    flat = [_flatten(experiment.params) for experiment in experiments]
    keys = list(dict.fromkeys(key for params in flat for key in params))
    varied = [key for key in keys if key != SEED and len({repr(params.get(key)) for params in flat}) > 1]
    groups: dict[str, Group] = {}
    for params, experiment in zip(flat, experiments, strict=True):
        settings = {key: params.get(key) for key in varied}
        group = groups.setdefault(repr(settings), Group(settings))
        for name, value in experiment.metrics.items():
            group.values.setdefault(name, {}).setdefault(params.get(SEED, 0), value)
    return sorted(groups.values(), key=lambda group: [_order(value) for value in group.settings.values()])


def spread_table(groups: Sequence[Group]) -> Table:
    """Return a table with a row for each metric and a column for each group: mean ± standard deviation."""
    keys = list(groups[0].settings) if groups else []
    last = [key.rsplit(".", 1)[-1] for key in keys]
    short = [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]
    heads = [
        "\n".join(f"{name}={value}" for name, value in zip(short, group.settings.values(), strict=True)) for group in groups
    ]
    by = f", by {', '.join(keys)}" if keys else ""
    table = make_table(f"Mean ± standard deviation over the seeds{by}", *(head or "all" for head in heads))
    table.add_row("seeds", *(", ".join(map(str, group.seeds)) for group in groups))
    for name in dict.fromkeys(name for group in groups for name in group.values):
        table.add_row(name, *(_cell(group.values.get(name, {})) for group in groups))
    return table


def _order(value: Any) -> tuple[float, str]:
    """Return a key that sorts numbers by size, before all else."""
    return (float(value), "") if isinstance(value, (int, float)) else (float("inf"), str(value))


def _cell(by_seed: Mapping[int, float]) -> str:
    if not by_seed:
        return ""
    deviation = _stdev(by_seed)
    return f"{mean(by_seed.values()):.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def _stdev(by_seed: Mapping[int, float]) -> float | None:
    return stdev(by_seed.values()) if len(by_seed) > 1 else None


def _fits(experiment: Experiment, name: str) -> bool:
    return experiment.name == name or experiment.name.startswith(f"{name}-")


def _flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{inner}": deep for inner, deep in _flatten(value).items()}
        else:
            flat[key] = value
    return flat
