"""HTML page of a query's hits, with frames of each clip; needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alpro.report.gallery import FilmStrips
from alpro.report.templating import render
from alpro.search.query import Hit

COMMAND = "alpro search"


def page(text: str, hits: Sequence[Hit], videos: str | Path) -> str:
    """Return the HTML of a query's hits; their paths are relative to `videos`."""
    films = FilmStrips()
    shown = [
        {"video": h.video, "score": h.score, "similarity": h.similarity, "strip": films.strip(Path(videos) / h.video, h.video)}
        for h in hits
    ]
    values = {"text": text, "hits": shown, "videos": str(videos), "films": films}
    return render("search.html", "alpro.search", command=COMMAND, title=f"ALPRO: {text}", **values)
