"""The choice of a clip: from the list of the folder's clips, or an upload; with a player beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from alpro.app.context import UPLOADED, Page, told
from alpro.app.markup import PLAY, player
from alpro.data.media.extensions import VIDEO_EXTENSIONS
from alpro.served.limits import MEGABYTE, short


@dataclass(frozen=True)
class ClipPicker:
    """Components that choose a clip. The list's value is the clip's name."""

    clip: Any
    player: Any


def clip_picker(page: Page, name: str) -> ClipPicker:
    """Add a list of clips, an upload button and a player to the page. `name` makes their ids."""
    limits = page.served.limits
    clip = gr.Dropdown(
        label="Clip", choices=[], value=None, allow_custom_value=True, filterable=True, elem_id=f"{name}-clip",
        info="Of the folder above, or upload one.",
    )  # fmt: skip
    upload = gr.UploadButton(
        f"Upload a clip (up to {limits.upload_bytes / MEGABYTE:g} MB, {limits.seconds:g} s)",
        file_types=list(VIDEO_EXTENSIONS), elem_id=f"{name}-upload", size="sm",
    )  # fmt: skip
    shown = gr.HTML(elem_id=f"{name}-player", js_on_load=PLAY, padding=False)

    def show(chosen: str | None) -> str:
        if not chosen:
            return ""
        path = page.clip(chosen)
        return player(page.links.link(path), "uploaded clip" if chosen.startswith(UPLOADED) else chosen)

    def store(file: str | None) -> tuple[Any, Any]:
        if file is None:
            return "", gr.skip()
        received = Path(file)
        try:
            with received.open("rb") as stream:
                path = page.served.uploads.add(stream, received.name)
        finally:
            received.unlink(missing_ok=True)  # Gradio's own copy
        value = UPLOADED + path.name
        choices = [(f"Upload: {short(received.name)}", value), *((clip, clip) for clip in page.clips(""))]
        return player(page.links.link(path), received.name), gr.update(choices=choices, value=value)

    upload.upload(told(store, (gr.skip(),)), upload, [shown, clip], api_visibility="private", show_progress="minimal")
    clip.change(told(show), clip, shown, api_visibility="private", show_progress="hidden")
    return ClipPicker(clip, shown)
