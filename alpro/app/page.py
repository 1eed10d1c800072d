"""The page: a header with the folder and the models in use, and five tabs."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import gradio as gr

from alpro.app.ask_tabs import ask_tab, match_tab
from alpro.app.context import Page, told
from alpro.app.look_tab import look_tab
from alpro.app.markup import notice, text
from alpro.app.models_tab import models_tab
from alpro.app.search_tab import search_tab
from alpro.errors import AlproError

REFRESH_S = 5.0  # of the line that names the models in use
FONTS = ("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
ROLES = {"search": "Search and match", "ask": "Questions"}


def build_page(page: Page) -> Any:
    """Return the page as Gradio blocks."""
    with gr.Blocks(title="ALPRO", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as blocks:
        with gr.Row(elem_classes="top", equal_height=True):
            gr.HTML('<h1>ALPRO</h1><p class="tagline">Search, ask and match videos by text.</p>', padding=False)
            gr.HTML(lambda: _models_in_use(page), every=REFRESH_S, elem_id="in-use", padding=False)
        folder = gr.Dropdown(
            label="Folder", choices=_folders(page), value=_first_folder(page), allow_custom_value=True, elem_id="folder",
            info=f"Below {page.videos.path.name}; nothing outside of it is read.",
        )  # fmt: skip
        problem = gr.HTML(elem_id="folder-problem", padding=False)
        with gr.Tabs() as tabs:
            with gr.Tab("Search", id="search"):
                results = search_tab(page, folder)
            with gr.Tab("Ask", id="ask"):
                ask = ask_tab(page)
            with gr.Tab("Match", id="match"):
                match = match_tab(page)
            with gr.Tab("Look inside", id="look"):
                look = look_tab(page)
            with gr.Tab("Models", id="models") as models_page:
                models_tab(page, models_page)
        pickers = [picker.clip for picker in (ask, match, look)]

        def choose_folder(chosen: str) -> tuple[Any, ...]:
            clips = page.clips(chosen)
            first = clips[0] if clips else None
            message = "" if clips else notice("This folder has no videos.", "info")
            return (message, *(gr.update(choices=clips, value=first) for _ in pickers))

        def ask_about(chosen: str, event: gr.EventData) -> tuple[Any, Any]:
            return gr.update(selected="ask"), str((event._data or {}).get("clip", ""))

        skipped = tuple(gr.skip() for _ in pickers)
        gr.on([folder.change, blocks.load], told(choose_folder, skipped), folder, [problem, *pickers], api_visibility="private")
        results.ask(ask_about, folder, [tabs, ask.clip], api_visibility="private")
    return blocks


def theme() -> Any:
    """Return the theme: fonts of the system, so that none is loaded."""
    return gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", font=FONTS, font_mono=MONO)


def style() -> str:
    """Return the page's own style sheet."""
    return files("alpro.app").joinpath("page.css").read_text(encoding="utf-8")


def _models_in_use(page: Page) -> str:
    served = page.served
    lines = []
    for role, title in ROLES.items():
        version = served.models.current().get(role)  # type: ignore[call-overload]
        name = f'<b class="version">{text(version.title)}</b>' if version else '<b class="missing">no model</b>'
        lines.append(f"<li><span>{title}</span> {name}</li>")
    found = [*served.models.problems.values(), *served.collections.problems.values()]
    problems = "".join(notice(problem) for problem in found)
    return f'<ul class="in-use">{"".join(lines)}</ul>{problems}'


def _folders(page: Page) -> list[tuple[str, str]]:
    return [
        (folder if folder != "." else f"{page.videos.path.name} (the chosen folder)", folder)
        for folder in page.videos.folders()
    ]


def _first_folder(page: Page) -> str:
    try:
        folders = page.videos.folders()
    except AlproError:
        folders = []
    return folders[0] if folders else "."
