"""HTML page of a query's hits, with frames of each clip; needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from alpro.files.outputs import generator_tag
from alpro.report.gallery import FilmStrips
from alpro.search.query import Hit

COMMAND = "alpro search"


def page(text: str, hits: Sequence[Hit], videos: str | Path) -> str:
    """Return the HTML of a query's hits; their paths are relative to `videos`."""
    films = FilmStrips()
    cards = []
    for rank, hit in enumerate(hits, 1):
        score = "" if hit.score is None else f"match {hit.score:.3f} · "
        strip = films.strip(Path(videos) / hit.video, hit.video)
        cards.append(
            f'<article>{strip}<p class="text"><b>{rank}</b> {escape(hit.video)}</p>'
            f"<p><small>{score}cosine {hit.similarity:.3f}</small></p></article>"
        )
    style = files("alpro.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{generator_tag(COMMAND)}'
        f"<title>ALPRO: {escape(text)}</title><style>\n{style}\n{films.css()}\n</style></head><body>\n"
        f"<header><h1>{escape(text)}</h1><p>The {len(hits)} best clips of {escape(str(videos))}. VTC searches the whole "
        "index, VTM re-ranks its best matches.</p></header>\n"
        f'<section><div class="cards">{"".join(cards)}</div></section>\n</body></html>\n'
    )
