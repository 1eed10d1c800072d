"""`alpro ask`, `match`, `index` and `search`: use a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpro.cli.app import app
from alpro.cli.options import AsJson, Checkpoint, Frames, Step, Tokenizer


@app.command()
def ask(
    video: str,
    question: str,
    checkpoint: Checkpoint,
    answers: Annotated[str | None, typer.Option(help="The answer list, if not the checkpoint's.")] = None,
    step: Step = "best",
    tokenizer: Tokenizer = None,
    frames: Frames = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question about a video: the likeliest answers with their probabilities."""
    from alpro.serving import single

    model = single.load(checkpoint, step=step, tokenizer=tokenizer, answers=answers, frames=frames)
    typer.echo(single.show_answers(single.ask(model, video, question), as_json))


@app.command()
def match(
    video: str,
    texts: list[str],
    checkpoint: Checkpoint,
    step: Step = "best",
    tokenizer: Tokenizer = None,
    frames: Frames = None,
    as_json: AsJson = False,
) -> None:
    """Say how well texts fit a video: VTM's probability of a match and VTC's similarity."""
    from alpro.serving import single

    model = single.load(checkpoint, step=step, tokenizer=tokenizer, frames=frames)
    typer.echo(single.show_matches(single.match(model, video, texts), as_json))


@app.command()
def index(
    videos: Annotated[Path, typer.Argument(help="Folder of videos; those below count too.")],
    checkpoint: Checkpoint,
    output: Annotated[Path, typer.Option("--index", help="Folder of the index, made or brought up to date.")],
    step: Step = "best",
    tokenizer: Tokenizer = None,
    frames: Frames = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read ahead.")] = 2,
) -> None:
    """Make a folder of videos searchable; only new and changed videos are encoded."""
    from alpro.search.index import build
    from alpro.serving import single

    model = single.load(checkpoint, step=step, tokenizer=tokenizer, frames=frames)
    done = build(model, videos, output, workers, typer.echo)
    for fault in done.unreadable:
        typer.echo(f"left out: {fault}", err=True)
    typer.echo(f"{output}: {done.videos} videos, {done.encoded} encoded now, {done.removed} removed")


@app.command()
def search(
    text: str,
    checkpoint: Checkpoint,
    folder: Annotated[Path, typer.Option("--index", help="Folder that `alpro index` made.")],
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="Clips to show.")] = 5,
    rerank: Annotated[int, typer.Option(min=0, help="How many of VTC's best VTM re-ranks; 0: none.")] = 128,
    html: Annotated[Path | None, typer.Option(help="Write the clips with frames into this HTML file.")] = None,
    step: Step = "best",
    tokenizer: Tokenizer = None,
    as_json: AsJson = False,
) -> None:
    """Find the clips that fit a text best."""
    from alpro.search import query
    from alpro.search.index import Gallery
    from alpro.search.page import page
    from alpro.serving import single

    gallery = Gallery.open(folder)
    finder = query.Searcher(single.load(checkpoint, step=step, tokenizer=tokenizer), gallery)
    hits = finder.search(text, count, rerank)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(page(text, hits, gallery.facts["videos"]), encoding="utf-8")
    typer.echo(query.show(hits, gallery.facts["videos"], as_json))
