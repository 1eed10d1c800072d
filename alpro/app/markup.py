"""HTML of the page's results. Texts pass through `text`, which leaves nothing to interpret."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from alpro.files.names import shown
from alpro.search.query import Hit
from alpro.served.versions import Version

# Gradio passes a component's value through JavaScript template strings and Handlebars.
_TEMPLATE = {ord("{"): "&#123;", ord("}"): "&#125;", ord("$"): "&#36;", ord("`"): "&#96;", ord("\\"): "&#92;"}
# Script of every component with players: a click on the button starts the clip and shows the browser's controls.
PLAY = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-play]');
  if (!button || !element.contains(button)) return;
  const video = button.previousElementSibling;
  video.controls = true;
  video.play();
  button.hidden = true;
});
"""


def text(value: object) -> str:
    """Return a text as HTML that shows exactly its characters."""
    return escape(shown(str(value))).translate(_TEMPLATE)


def notice(message: str, kind: str = "error") -> str:
    """Return a message in a box; `kind` is error or info. An empty message gives nothing."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="notice {kind}" role="{role}">{text(message)}</div>' if message else ""


def answered_by(version: Version, seconds: float | None = None) -> str:
    """Return the line that says which version answered."""
    time = "" if seconds is None else f"in {1000 * seconds:.0f} ms "
    return f'<p class="by">Answered {time}by <b class="version">{text(version.name)}</b>{text(_origin(version))}</p>'


def player(link: str, name: str) -> str:
    """Return a clip that plays in place."""
    return (
        f'<figure class="player"><div class="screen"><video src="{text(link)}" poster="{text(link)}/poster" loop muted '
        f'playsinline preload="none" aria-label="{text(name)}"></video>'
        f'<button class="play" data-play aria-label="Play {text(name)}"></button></div>'
        f'<figcaption title="{text(name)}">{text(name)}</figcaption></figure>'
    )


def clip_cards(
    title: str, hits: Sequence[Hit], links: Sequence[str], shown_names: Sequence[str], version: Version, seconds: float
) -> str:
    """Return a title and a grid of clips with their scores. A button of a card names its clip in `data-clip`."""
    cards = []
    for rank, (hit, link, name) in enumerate(zip(hits, links, shown_names, strict=True), 1):
        match = (
            "" if hit.score is None else _score("VTM", f"{100 * hit.score:.1f} %", hit.score, "match by the multimodal encoder")
        )
        cosine = _score("VTC", f"{hit.similarity:.3f}", (1 + hit.similarity) / 2, "cosine of text and clip")
        cards.append(
            f'<article class="card" data-rank="{rank}"><span class="rank">{rank}</span>{player(link, name)}'
            f'<div class="scores">{match}{cosine}</div>'
            f'<div class="actions"><button data-action="like" data-clip="{text(hit.video)}">More like this</button>'
            f'<button data-action="ask" data-clip="{text(hit.video)}">Ask about it</button></div></article>'
        )
    return f'<h3 class="title">{text(title)}</h3>{answered_by(version, seconds)}<div class="grid">{"".join(cards)}</div>'


def bars(rows: Iterable[tuple[str, float, str]], title: str = "") -> str:
    """Return rows of text, fraction and value as horizontal bars."""
    items = "".join(
        f'<li><span class="label">{text(label)}</span><span class="track"><span class="fill" '
        f'style="width:{_percent(fraction)}"></span></span><span class="value">{text(value)}</span></li>'
        for label, fraction, value in rows
    )
    return f'<ol class="bars" aria-label="{text(title)}">{items}</ol>'


def picture(pixels: NDArray[np.uint8], lossy: bool = True) -> str:
    """Return an image (H, W, 3 or 4) as a data URI."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG" if lossy else "PNG", quality=85)
    return f"data:image/{'jpeg' if lossy else 'png'};base64,{base64.b64encode(data.getvalue()).decode()}"


def _score(name: str, value: str, fraction: float, help: str) -> str:
    return (
        f'<span class="score" title="{text(help)}"><i>{name}</i><span class="track"><span class="fill" '
        f'style="width:{_percent(fraction)}"></span></span><b>{text(value)}</b></span>'
    )


def _percent(fraction: float) -> str:
    return f"{100 * min(1.0, max(0.0, fraction)):.1f}%"


def _origin(version: Version) -> str:
    return {"champion": ", the champion", "checkpoint": ", the newest checkpoint"}.get(version.origin, "")
