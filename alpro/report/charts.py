"""Small charts as inline SVG, which need no network and use the page's light or dark colors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]
Scale = Callable[[float], float]  # maps a value to a coordinate

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
COLORS = ("var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)")


def line_chart(series: Mapping[str, Points], x_label: str, y_label: str, dotted: Sequence[str] = ()) -> str:
    """Draw a line chart, with dots for series of few points. Return an empty string if there are no points."""
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(0.0, *ys), max(ys))
    x_of, y_of = _scale(x_ticks, LEFT, WIDTH - RIGHT), _scale(y_ticks, HEIGHT - BOTTOM, TOP)
    elements = _axes(x_label, y_label, y_ticks, y_of)
    elements += [_text(x_of(x), HEIGHT - BOTTOM + 14, label(x), "middle") for x in x_ticks]
    for n, (name, points) in enumerate(series.items()):
        color = COLORS[n % len(COLORS)]
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        dash = ' stroke-dasharray="4 3"' if name in dotted else ""
        elements.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8"{dash}/>')
        if len(points) <= 12:
            elements += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2.6" fill="{color}"/>' for x, y in points]
    return _svg(elements, f"{y_label} over {x_label}") + legend(list(series))


def bar_chart(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    x_label: str,
    y_label: str,
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> str:
    """Draw a grouped bar chart; `intervals` are drawn as whiskers."""
    intervals = intervals or {}
    ends = [high for whiskers in intervals.values() for _, high in whiskers]
    y_ticks = ticks(0.0, max([*(v for values in series.values() for v in values), *ends, 1e-9]))
    y_of = _scale(y_ticks, HEIGHT - BOTTOM, TOP)
    elements = _axes(x_label, y_label, y_ticks, y_of)
    slot = (WIDTH - LEFT - RIGHT) / len(labels)
    width = 0.8 * slot / len(series)
    for position, name in enumerate(labels):
        middle = LEFT + (position + 0.5) * slot
        elements.append(_text(middle, HEIGHT - BOTTOM + 14, name, "middle"))
        for n, (series_name, values) in enumerate(series.items()):
            x, top = middle - 0.4 * slot + n * width, y_of(values[position])
            size = f'width="{max(width - 1, 1):.1f}" height="{max(y_of(0) - top, 0):.1f}"'
            tooltip = f"<title>{escape(f'{series_name}, {name}: {label(values[position])}')}</title>"
            elements.append(f'<rect x="{x:.1f}" y="{top:.1f}" {size} fill="{COLORS[n % len(COLORS)]}" rx="1">{tooltip}</rect>')
            if series_name in intervals:
                low, high = (y_of(end) for end in intervals[series_name][position])
                center = x + width / 2 - 0.5
                elements.append(f'<line x1="{center:.1f}" x2="{center:.1f}" y1="{low:.1f}" y2="{high:.1f}" class="whisker"/>')
    return _svg(elements, f"{y_label} by {x_label or 'group'}") + legend(list(series))


def legend(names: Sequence[str]) -> str:
    """Draw the legend; return an empty string for a single series."""
    if len(names) < 2:
        return ""
    marks = (f'<span><i style="background:{COLORS[n % len(COLORS)]}"></i>{escape(name)}</span>' for n, name in enumerate(names))
    return f'<div class="legend">{"".join(marks)}</div>'


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers that enclose low and high."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * n, 10) for n in range(first, last + 1)]


def label(value: float) -> str:
    """Format a number without superfluous digits."""
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def _scale(marks: Sequence[float], start: float, stop: float) -> Scale:
    low, high = marks[0], marks[-1]
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _axes(x_label: str, y_label: str, y_ticks: Sequence[float], y_of: Scale) -> list[str]:
    elements = []
    for y in y_ticks:
        elements.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(y):.1f}" y2="{y_of(y):.1f}" class="grid"/>')
        elements.append(_text(LEFT - 6, y_of(y) + 3.5, label(y), "end"))
    elements.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label, "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    elements.append(
        f'<text x="11" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 11 {middle:.1f})">{escape(y_label)}</text>'
    )
    return elements


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(elements: Sequence[str], name: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">{"".join(elements)}</svg>'
