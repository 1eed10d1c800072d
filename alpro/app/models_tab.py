"""Models: champion, candidate and previous version of each task, with metrics, the gate's record and lineage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from alpro.app.context import Page, told
from alpro.app.markup import notice, text
from alpro.served.registry_view import RegisteredVersion, TaskView, lineage_text, registered

EMPTY = "No model is registered yet. `alpro register` registers the pipeline's checkpoints, `alpro promote` makes a champion."
METRICS = {
    "text2video.r1": "text to video R@1",
    "text2video.r5": "text to video R@5",
    "text2video.r10": "text to video R@10",
    "text2video.medianR": "median rank",
    "video2text.r1": "video to text R@1",
    "overall_acc": "accuracy",
}
CLICK = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-lineage]');
  if (button && element.contains(button)) trigger('lineage', {name: button.dataset.lineage});
});
"""


def models_tab(page: Page, tab: Any) -> None:
    """Add the tab's components and handlers; it is read again whenever it is opened."""
    refresh = gr.Button("Read the registry again", size="sm", elem_id="refresh", scale=0, min_width=180)
    cards = gr.HTML(elem_id="models", js_on_load=CLICK, padding=False, min_height=120)
    lineage = gr.HTML(elem_id="lineage", padding=False)

    def read() -> tuple[str, str]:
        views = registered(page.served.root, page.served.models.sources.params)
        shown = [view for view in views if view.versions]
        return ("".join(map(_task, shown)) if shown else notice(EMPTY, "info")), ""

    def trace(event: gr.EventData) -> str:
        name = str((event._data or {}).get("name", ""))
        return f'<h3>Lineage of {text(name)}</h3><pre class="lineage">{_lines(lineage_text(page.served.root, name))}</pre>'

    gr.on([refresh.click, tab.select], told(read, ("",)), None, [cards, lineage], api_name="models", concurrency_limit=2)
    cards.lineage(told(trace), None, lineage, api_visibility="private", concurrency_limit=2)


def _lines(block: str) -> str:
    return "\n".join(text(line) for line in block.splitlines())


def _task(view: TaskView) -> str:
    kind = {"retrieval": "search and match", "qa": "questions"}[view.kind]
    cards = "".join(map(_version, view.versions))
    warning = notice(view.warning) if view.warning else ""
    title = f"<h3>{text(view.task)} <small>{kind}</small></h3>"
    return f'<section class="task">{title}{warning}<div class="versions">{cards}</div></section>'


def _version(version: RegisteredVersion) -> str:
    rows = "".join(
        f"<tr><th>{text(METRICS.get(name, name))}</th><td>{value:.1f}</td>"
        f"<td>{f'[{interval[0]:.1f} to {interval[1]:.1f}]' if interval else ''}</td></tr>"
        for name, (value, *interval) in version.metrics.items()
    )
    metrics = f'<table class="metrics">{rows}</table>' if rows else '<p class="note">not evaluated</p>'
    header = f'<header><b>{text(version.name)}</b><span class="alias">{text(", ".join(version.aliases))}</span></header>'
    return (
        f'<article class="model {text(" ".join(version.aliases))}">{header}{metrics}{_gate(version.gate)}'
        f'<button class="link" data-lineage="{text(version.name)}">Show lineage</button></article>'
    )


def _gate(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return '<p class="note">no gate record</p>'
    rows = "".join(
        f"<tr><th>{text(name)}</th><td>{text(candidate)}</td><td>{text(champion)}</td></tr>"
        for name, candidate, champion in record.get("checks", [])
    )
    against = record.get("against") or "chance"
    return (
        f"<details><summary>Passed the gate against {text(against)}, {text(_time(record.get('at', '')))}</summary>"
        f'<table class="metrics"><tr><th>check</th><td>candidate</td><td>champion</td></tr>{rows}</table></details>'
    )


def _time(at: str) -> str:
    """Return the gate's time, such as 2026-11-29T10-58-38Z, as people write it."""
    day, _, clock = at.removesuffix("Z").partition("T")
    return f"{day} {clock.replace('-', ':')} UTC" if clock else at
