"""`alpro app` and `alpro serve`: a web page and an HTTP service on the models in use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpro.cli.app import MODELS, app, example_line
from alpro.cli.options import Answers, Step, Tokenizer
from alpro.errors import ConfigError

Videos = Annotated[Path, typer.Option("--videos", help="Folder with the videos; nothing outside of it is read.")]
Checkpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoint", help="Serve this checkpoint (own or official) instead of the champion; repeat for a second kind."
    ),
]
SearchTask = Annotated[str | None, typer.Option(help="Task whose champion searches and matches (default: the first with one).")]
AskTask = Annotated[str | None, typer.Option(help="Task whose champion answers questions (default: the first with one).")]
UploadMb = Annotated[float, typer.Option(min=1, help="Largest upload, in MB.")]
Seconds = Annotated[float, typer.Option(min=1, help="Longest uploaded clip, in seconds.")]


@app.command(rich_help_panel=MODELS, epilog=example_line("serve --videos data/sample/msrvtt_ret/videos --port 8080"))
def serve(
    videos: Videos,
    checkpoint: Checkpoints = None,
    tokenizer: Tokenizer = None,
    answers: Answers = None,
    step: Step = "best",
    search_task: SearchTask = None,
    ask_task: AskTask = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need ALPRO_API_TOKEN.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8080,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; further ones get status 429.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until a request gets status 504.")] = 30.0,
    upload_mb: UploadMb = 200,
    upload_seconds: Seconds = 600,
) -> None:
    """Serve search, questions and matching over HTTP, with the champions of the registry."""
    _require("fastapi", "serve")
    from alpro.api.run import serve as run
    from alpro.served.limits import MEGABYTE, Limits
    from alpro.served.sources import NamedFile

    files = [NamedFile(path, step, tokenizer, answers) for path in checkpoint or ()]
    limits = Limits(upload_bytes=int(upload_mb * MEGABYTE), seconds=upload_seconds)
    run(
        Path.cwd(), videos, host=host, port=port, files=files, tasks={"search": search_task, "ask": ask_task},
        limits=limits, queue=queue, timeout_s=timeout, say=typer.echo,
    )  # fmt: skip


@app.command("app", rich_help_panel=MODELS, epilog=example_line("app --videos data/sample --port 7860"))
def web_page(
    videos: Videos,
    checkpoint: Checkpoints = None,
    tokenizer: Tokenizer = None,
    answers: Answers = None,
    step: Step = "best",
    search_task: SearchTask = None,
    ask_task: AskTask = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any free one.")] = 7860,
    upload_mb: UploadMb = 200,
    upload_seconds: Seconds = 600,
) -> None:
    """Open a web page on your videos: search, ask, match, look inside, and the models of the registry."""
    _require("gradio", "app,serve")
    from alpro.app.run import run
    from alpro.served.limits import MEGABYTE, Limits
    from alpro.served.sources import NamedFile

    files = [NamedFile(path, step, tokenizer, answers) for path in checkpoint or ()]
    limits = Limits(upload_bytes=int(upload_mb * MEGABYTE), seconds=upload_seconds)
    run(
        Path.cwd(), videos, port=port, files=files, tasks={"search": search_task, "ask": ask_task}, limits=limits,
        say=typer.echo,
    )  # fmt: skip


def _require(module: str, extra: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{module} is not installed; run `make setup`, or `pip install 'alpro[{extra}]'`")
