"""Charts have round ticks that enclose the data, and escape all text."""

from __future__ import annotations

import itertools

import pytest

from alpro.report.charts import bar_chart, label, line_chart, ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 97.3), (-3, 4), (0.001, 0.0042), (5, 5), (0, 0), (0, 123456)])
def test_ticks_are_round_and_enclose_the_data(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low and marks[-1] >= high and 2 <= len(marks) <= 8
    steps = {round(b - a, 9) for a, b in itertools.pairwise(marks)}
    assert len(steps) == 1


def test_tick_labels_are_short() -> None:
    assert [label(v) for v in (0, 2.5, 1000, 33.333, 0.0012)] == ["0", "2.5", "1,000", "33.3", "0.0012"]


def test_names_are_escaped() -> None:
    chart = bar_chart(["<b>"], {"a & b": [1.0], "c": [2.0]}, "x", "y", {"c": [(1.0, 3.0)]})
    assert "<b>" not in chart and "&lt;b&gt;" in chart and "a &amp; b" in chart
    assert chart.count("<rect") == 2 and chart.count('class="whisker"') == 1


def test_empty_series_are_not_drawn() -> None:
    assert line_chart({"loss": []}, "step", "loss") == ""
    assert line_chart({"loss": [(1, 2.0)]}, "step", "loss").count("<circle") == 1
