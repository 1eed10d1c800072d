"""Charts of the report: their data, and what a series looks like."""

from __future__ import annotations

from alpro.report.charts import Bar, Line, bar_chart, line_chart


def test_lines_of_one_name_share_a_color_and_differ_by_their_dashes() -> None:
    points = [(10, 2.0), (20, 1.0)]
    chart = line_chart([Line("vtc", points, "training"), Line("vtc", points[1:], "validation")], "step", "loss")
    assert chart is not None
    assert chart["data"]["values"][0] == {"x": 10, "y": 2.0, "name": "vtc", "split": "training"}
    assert len(chart["data"]["values"]) == 3
    assert chart["encoding"]["color"]["field"] == "name" and chart["encoding"]["strokeDash"]["field"] == "split"
    assert [shown["field"] for shown in chart["encoding"]["tooltip"]] == ["name", "split", "x", "y"]
    single = line_chart([Line("r1", points)], "step", "percent")
    assert single is not None and "strokeDash" not in single["encoding"]


def test_bars_keep_their_order_and_have_whiskers() -> None:
    chart = bar_chart([Bar("b", "z", 1.0), Bar("a", "c", 2.0, (1.0, 3.0))], "x", "y")
    assert chart is not None
    assert chart["data"]["values"] == [
        {"label": "b", "series": "z", "value": 1.0},
        {"label": "a", "series": "c", "value": 2.0, "low": 1.0, "high": 3.0},
    ]
    assert chart["encoding"]["x"]["sort"] is None and chart["encoding"]["xOffset"]["sort"] == ["z", "c"]
    bars, whiskers = chart["layer"]
    assert bars["mark"]["type"] == "bar" and whiskers["encoding"]["y2"] == {"field": "high"}


def test_without_data_there_is_no_chart() -> None:
    assert line_chart([Line("loss", [])], "step", "loss") is None
    assert bar_chart([], "x", "y") is None
