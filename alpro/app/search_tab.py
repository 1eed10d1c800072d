"""Search: an index of the chosen folder, a text, and a grid of clips that play in place."""

from __future__ import annotations

from typing import Any

import gradio as gr

from alpro.app.context import Page, Stopwatch, told
from alpro.app.markup import PLAY, clip_cards, notice
from alpro.search.query import Hit, Query
from alpro.served.collections import Collection

COUNT = 12
CLICK = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-action]');
  if (button && element.contains(button)) trigger(button.dataset.action, {clip: button.dataset.clip});
});
// names of the events: 'like' 'ask'
"""


def search_tab(page: Page, folder: Any) -> Any:
    """Add the tab's components and handlers; return the results, whose event `ask` names a clip."""
    with gr.Row(elem_classes="controls", equal_height=True):
        query = gr.Textbox(
            label="Describe the clip", placeholder="a red ball moves to the left", elem_id="query", scale=5, max_lines=1
        )
        search = gr.Button("Search", variant="primary", elem_id="search", scale=1, min_width=120)
    with gr.Row(elem_classes="controls secondary"):
        index = gr.Button("Index this folder", elem_id="index", size="sm", scale=0, min_width=160)
        status = gr.HTML(elem_id="index-status", padding=False)
    results = gr.HTML(elem_id="results", js_on_load=PLAY + CLICK, padding=False, min_height=120)

    def build(chosen: str, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008  Gradio finds it in the signature
        progress(0, desc="Looking for videos")
        collection = page.served.collections.index(
            page.videos.folder(chosen), lambda done, total: progress((done, total), desc="Encoding clips", unit="clips")
        )
        return notice(_summary(collection), "info")

    def find(text: str, chosen: str, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        text = page.served.limits.text(text, "query")
        target = page.videos.folder(chosen)
        if not page.served.collections.has(target):
            progress(0, desc="The folder is indexed first")
            page.served.collections.index(
                target, lambda done, total: progress((done, total), desc="Encoding clips", unit="clips")
            )
        watch, collection = Stopwatch(), page.served.collections.get(target)
        reply = page.wait(page.served.engine.search(collection, Query(text, COUNT), page.timeout_s))
        return _cards(page, f"{len(reply.value)} clips for: {text}", collection, reply.value, watch.seconds)

    def similar(chosen: str, event: gr.EventData) -> str:
        watch, collection = Stopwatch(), page.collection(chosen)
        clip = str((event._data or {}).get("clip", ""))
        hits = collection.searcher.similar(clip, COUNT)
        return _cards(page, f"Clips like {clip}", collection, hits, watch.seconds)

    index.click(told(build), folder, status, api_name="index", concurrency_limit=1)
    gr.on([search.click, query.submit], told(find), [query, folder], results, api_name="search", concurrency_limit=8)
    results.like(told(similar), folder, results, api_visibility="private", concurrency_limit=8)
    return results


def _cards(page: Page, title: str, collection: Collection, hits: list[Hit], seconds: float) -> str:
    paths = [collection.folder / hit.video for hit in hits]
    names = [page.videos.name(path) for path in paths]
    relative = [Hit(name, hit.score, hit.similarity) for name, hit in zip(names, hits, strict=True)]
    links = [page.links.link(path) for path in paths]
    return clip_cards(title, relative, links, [hit.video for hit in hits], collection.version, seconds)


def _summary(collection: Collection) -> str:
    update = collection.update
    parts = [
        f"{update.videos} clips can be searched",
        f"{update.encoded} encoded now" if update.encoded else "all were encoded before",
    ]
    if update.unreadable:
        parts.append(f"{len(update.unreadable)} left out, for example: {update.unreadable[0]}")
    return "; ".join(parts) + f". Index of {collection.version.title}."
