"""Bootstrap over queries (Efron, 1979): 95 % percentile intervals and paired comparisons.

Queries on one video are not independent; with `groups`, whole groups (videos) are resampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alpro.errors import DataError

Floats = NDArray[np.float64]
CHUNK = 4_000_000  # resampling weights in memory at a time


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of two runs on the same queries: `difference` is the mean of a - b."""

    a: float
    b: float
    difference: float
    ci95: tuple[float, float]
    p_value: float
    n: int


def interval(
    values: ArrayLike,
    *,
    statistic: Literal["mean", "median"] = "mean",
    groups: Sequence[object] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean or median of values (Q,); `groups` (Q,) are resampled whole.

    The same values, groups, resamples and seed give the same bits. Raises DataError if there are no values.
    """
    data = np.asarray(values, np.float64)
    resampled = _means(data, groups, resamples, seed) if statistic == "mean" else _medians(data, groups, resamples, seed)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def compare(
    a: ArrayLike, b: ArrayLike, *, groups: Sequence[object] | None = None, resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """Compare per-query values in pairs: mean difference, its interval, and the two-sided bootstrap p-value.

    The p-value is twice the smaller share of resampled differences on either side of zero, at least 2 / (resamples + 1).
    It is under 0.05 if the interval excludes zero.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise DataError(f"{len(first)} and {len(second)} values can't be paired: the runs have different queries")
    means = _means(first - second, groups, resamples, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    below, above = (1 + (means <= 0).sum()) / (resamples + 1), (1 + (means >= 0).sum()) / (resamples + 1)
    return Comparison(
        a=float(first.mean()),
        b=float(second.mean()),
        difference=float((first - second).mean()),
        ci95=(float(low), float(high)),
        p_value=float(min(1.0, 2 * min(below, above))),
        n=len(first),
    )


def _means(values: Floats, groups: Sequence[object] | None, resamples: int, seed: int) -> Floats:
    group = _group_index(values, groups)
    sums, counts = np.bincount(group, weights=values), np.bincount(group).astype(np.float64)
    return np.concatenate([times @ sums / (times @ counts) for times in _draws(len(sums), resamples, seed)])


def _medians(values: Floats, groups: Sequence[object] | None, resamples: int, seed: int) -> Floats:
    group = _group_index(values, groups)
    order = np.argsort(values, kind="stable")
    ranked, medians = values[order], []
    for times in _draws(int(group.max()) + 1, resamples, seed, width=len(values)):
        reached = times[:, group[order]].cumsum(axis=1)  # number of drawn values up to this one
        total = reached[:, -1:]
        lower = (reached < (total + 1) // 2).sum(axis=1)  # positions of the two middle values
        upper = (reached < total // 2 + 1).sum(axis=1)
        medians.append((ranked[lower] + ranked[upper]) / 2)
    return np.concatenate(medians)


def _draws(units: int, resamples: int, seed: int, width: int | None = None) -> Iterator[NDArray[np.int64]]:
    """Yield how often each unit was drawn, (rows, units), `resamples` rows in all; the rows don't depend on the chunk size."""
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // max(units, width or 1))
    for start in range(0, resamples, rows):
        yield generator.multinomial(units, np.full(units, 1 / units), size=min(rows, resamples - start))


def _group_index(values: Floats, groups: Sequence[object] | None) -> NDArray[np.int64]:
    if values.ndim != 1 or not len(values):
        raise DataError("no values: an interval needs at least one query")
    if groups is None:
        return np.arange(len(values))
    if len(groups) != len(values):
        raise DataError(f"{len(groups)} groups don't match {len(values)} values")
    index_of = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    return np.array([index_of[name] for name in groups])
