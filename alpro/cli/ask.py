"""`alpro ask`, `match`, `index` and `search`: use a checkpoint on videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpro.cli.app import MODELS, app, example_line
from alpro.cli.options import Answers, AsJson, Checkpoint, Frames, Step, Tokenizer

Video = Annotated[str, typer.Argument(help="Video file.")]


@app.command(
    rich_help_panel=MODELS,
    epilog=example_line("ask video.mp4 'what is moving?' --checkpoint models/sample/finetune/msvd_qa"),
)
def ask(
    video: Video,
    question: Annotated[str, typer.Argument(help="A question in English.")],
    checkpoint: Checkpoint,
    answers: Answers = None,
    step: Step = "best",
    tokenizer: Tokenizer = None,
    frames: Frames = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question about a video: the most probable answers."""
    from alpro.serving import single_video

    model = single_video.load(checkpoint, step=step, tokenizer=tokenizer, answers=answers, frames=frames)
    typer.echo(single_video.show_answers(single_video.ask(model, video, question), as_json))


@app.command(
    rich_help_panel=MODELS,
    epilog=example_line("match video.mp4 'a red ball rolls' 'a blue cube' --checkpoint models/sample/finetune/msrvtt_ret"),
)
def match(
    video: Video,
    texts: Annotated[list[str], typer.Argument(help="One or more texts.")],
    checkpoint: Checkpoint,
    step: Step = "best",
    tokenizer: Tokenizer = None,
    frames: Frames = None,
    as_json: AsJson = False,
) -> None:
    """Score how well texts describe a video: VTM's matching probability and VTC's similarity."""
    from alpro.serving import single_video

    model = single_video.load(checkpoint, step=step, tokenizer=tokenizer, frames=frames)
    typer.echo(single_video.show_matches(single_video.match(model, video, texts), as_json))


@app.command(
    rich_help_panel=MODELS,
    epilog=example_line("index data/sample/msrvtt_ret/videos --checkpoint models/sample/finetune/msrvtt_ret --index my_index"),
)
def index(
    videos: Annotated[Path, typer.Argument(help="Folder with videos; folders below it are included.")],
    checkpoint: Checkpoint,
    output: Annotated[Path, typer.Option("--index", help="Folder of the index; created or updated.")],
    step: Step = "best",
    tokenizer: Tokenizer = None,
    frames: Frames = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read ahead.")] = 2,
) -> None:
    """Index a folder of videos for `alpro search`; only new and changed videos are encoded."""
    from alpro.search.index import build
    from alpro.serving import single_video

    model = single_video.load(checkpoint, step=step, tokenizer=tokenizer, frames=frames)
    done = build(model, videos, output, workers, typer.echo)
    for fault in done.unreadable:
        typer.echo(f"left out: {fault}", err=True)
    typer.echo(f"{output}: {done.videos} videos, {done.encoded} encoded now, {done.removed} removed")


@app.command(
    rich_help_panel=MODELS,
    epilog=example_line("search 'a red ball rolls' --checkpoint models/sample/finetune/msrvtt_ret --index my_index"),
)
def search(
    text: Annotated[str, typer.Argument(help="Description of the clip.")],
    checkpoint: Checkpoint,
    folder: Annotated[Path, typer.Option("--index", help="Folder that `alpro index` made.")],
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="Number of clips to show.")] = 5,
    rerank: Annotated[int, typer.Option(min=0, help="How many of VTC's best clips VTM re-ranks; 0: none.")] = 128,
    html: Annotated[Path | None, typer.Option(help="HTML file to write, with frames of the clips.")] = None,
    step: Step = "best",
    tokenizer: Tokenizer = None,
    as_json: AsJson = False,
) -> None:
    """Find the clips that best match a text."""
    from alpro.files.atomic import atomic_write
    from alpro.files.outputs import check_page
    from alpro.search import query
    from alpro.search.index import VideoIndex
    from alpro.search.page import COMMAND, page
    from alpro.serving import single_video

    target = None if html is None else check_page(html, COMMAND)
    video_index = VideoIndex.open(folder)
    searcher = query.Searcher(single_video.load(checkpoint, step=step, tokenizer=tokenizer), video_index)
    hits = searcher.search(text, count, rerank)
    if target is not None:
        atomic_write(target, page(text, hits, video_index.metadata["videos"]))
    typer.echo(query.show(hits, video_index.metadata["videos"], as_json))
