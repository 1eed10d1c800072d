"""Charts of the report as Vega-Lite specifications. The page draws them with the scripts in `vega/`, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
HEIGHT = 210
LEGEND = {"title": None, "orient": "bottom", "columns": 4}
DASHES = {**LEGEND, "symbolType": "stroke", "symbolSize": 250, "symbolStrokeColor": "var(--muted)", "symbolFillColor": "none"}

Chart = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart. Lines of one name have one color; `split` (training, validation) sets the dashes."""

    name: str
    points: Sequence[tuple[float, float]]
    split: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar above a label; bars of one series have one color. `interval` is drawn as a whisker."""

    label: str
    series: str
    value: float
    interval: tuple[float, float] | None = None


def line_chart(lines: Sequence[Line], x_label: str, y_label: str) -> Chart | None:
    """Return a line chart with a dot for each point, or None without points."""
    values = [{"x": x, "y": y, "name": line.name, "split": line.split} for line in lines for x, y in line.points]
    if not values:
        return None
    encoding: Chart = {
        "x": {"field": "x", "type": "quantitative", "title": x_label},
        "y": {"field": "y", "type": "quantitative", "title": y_label, "scale": {"zero": True}},
        "color": {"field": "name", "type": "nominal", "sort": None, "legend": LEGEND},
    }
    tooltip = [_shown("name", ""), _shown("x", x_label, "quantitative"), _shown("y", y_label, "quantitative", ".4~g")]
    if len({line.split for line in lines if line.points}) > 1:
        encoding["strokeDash"] = {"field": "split", "type": "nominal", "sort": None, "legend": DASHES}
        tooltip.insert(1, _shown("split", ""))
    mark = {"type": "line", "point": {"size": 12}, "strokeWidth": 1.6}
    return _chart(values) | {"mark": mark, "encoding": {**encoding, "tooltip": tooltip}}


def bar_chart(bars: Sequence[Bar], x_label: str, y_label: str) -> Chart | None:
    """Return a chart of grouped bars in their order, or None without bars."""
    values = [
        {"label": bar.label, "series": bar.series, "value": bar.value}
        | ({"low": bar.interval[0], "high": bar.interval[1]} if bar.interval else {})
        for bar in bars
    ]
    if not values:
        return None
    series = list(dict.fromkeys(bar.series for bar in bars))
    tooltip = [_shown("label", x_label), _shown("series", ""), _shown("value", y_label, "quantitative", ".4~g")]
    layers: list[Chart] = [
        {
            "mark": {"type": "bar"},
            "encoding": {
                "y": {"field": "value", "type": "quantitative", "title": y_label},
                "color": {"field": "series", "type": "nominal", "sort": series, "legend": LEGEND if len(series) > 1 else None},
            },
        }
    ]
    if any(bar.interval for bar in bars):
        tooltip += [_shown("low", "from", "quantitative", ".4~g"), _shown("high", "to", "quantitative", ".4~g")]
        layers.append({
            "mark": {"type": "rule", "strokeWidth": 1.2},
            "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
        })  # fmt: skip
    encoding = {
        "x": {"field": "label", "type": "nominal", "sort": None, "title": x_label or None, "axis": {"labelAngle": 0}},
        "xOffset": {"field": "series", "sort": series},
        "tooltip": tooltip,
    }
    return _chart(values) | {"encoding": encoding, "layer": layers}


def _chart(values: Sequence[dict[str, Any]]) -> Chart:
    return {"$schema": SCHEMA, "width": "container", "height": HEIGHT, "data": {"values": values}}


def _shown(field: str, title: str, kind: str = "nominal", number_format: str | None = None) -> Chart:
    return {"field": field, "type": kind, "title": title or field} | ({"format": number_format} if number_format else {})
