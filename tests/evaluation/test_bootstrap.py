"""Bootstrap: coverage of intervals, reproducibility, pairs and groups."""

from __future__ import annotations

import numpy as np
import pytest

from alpro.errors import DataError
from alpro.evaluation.bootstrap import _means, _medians, compare, interval


def test_interval_of_a_proportion_is_near_the_binomial_interval() -> None:
    values = np.r_[np.ones(339), np.zeros(661)]  # R@1 of 33.9 on 1,000 queries: standard error 1.5 points
    low, high = interval(values, resamples=2000)
    assert low == pytest.approx(0.339 - 1.96 * 0.01497, abs=0.003)
    assert high == pytest.approx(0.339 + 1.96 * 0.01497, abs=0.003)


def test_interval_depends_on_the_seed() -> None:
    values = np.random.default_rng(1).normal(size=200)
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_chunks_do_not_change_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(50.0)
    whole = interval(values), interval(values, statistic="median")
    monkeypatch.setattr("alpro.evaluation.bootstrap.CHUNK", 500)
    assert (interval(values), interval(values, statistic="median")) == whole


def test_median_equals_numpy_on_the_same_draws() -> None:
    values = np.random.default_rng(0).integers(1, 40, 31).astype(float)
    drawn = np.random.default_rng(5).multinomial(31, np.full(31, 1 / 31), size=20)
    expected = [np.median(np.repeat(values, times)) for times in drawn]
    assert _medians(values, None, 20, 5).tolist() == expected
    assert _means(values, None, 20, 5) == pytest.approx([np.repeat(values, t).mean() for t in drawn])


def test_groups_are_resampled_as_a_whole() -> None:
    values, groups = np.repeat([0.0, 1.0] * 20, 25), np.repeat(np.arange(40), 25)  # 25 equal questions per video
    alone, whole = interval(values), interval(values, groups=groups.tolist())
    assert whole[1] - whole[0] > 4 * (alone[1] - alone[0])
    assert whole == pytest.approx(interval(np.array([0.0, 1.0] * 20)), abs=1e-12)


def test_paired_comparison_detects_a_difference_that_intervals_do_not() -> None:
    generator = np.random.default_rng(0)
    b = (generator.random(400) < 0.5).astype(float)
    a = b.copy()
    a[np.flatnonzero(b == 0)[:16]] = 1  # 16 of 400 queries better, none worse
    found = compare(a, b)
    assert found.difference == pytest.approx(0.04)
    assert found.p_value < 0.001 and found.ci95[0] > 0 and found.n == 400
    assert interval(a)[0] < b.mean()


def test_equal_runs_have_p_one() -> None:
    assert compare([1, 0, 1], [1, 0, 1]).p_value == 1.0


def test_p_value_is_about_uniform_without_a_difference() -> None:
    generator = np.random.default_rng(2)
    small = sum(compare(*(generator.random((2, 100)) < 0.3), resamples=500, seed=i).p_value < 0.05 for i in range(200))
    assert 2 <= small <= 24


@pytest.mark.parametrize(("values", "groups"), [([], None), ([1.0], ["a", "b"])])
def test_empty_values_and_mismatched_groups_are_refused(values: list[float], groups: list[str] | None) -> None:
    with pytest.raises(DataError):
        interval(values, groups=groups)


def test_pairs_of_unequal_length_are_refused() -> None:
    with pytest.raises(DataError, match="paired"):
        compare([1.0], [1.0, 2.0])
