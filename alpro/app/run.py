"""`alpro app`: starts the web page on this machine and stops it in order."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alpro.served.limits import Limits
from alpro.served.sources import NamedFile
from alpro.served.stack import Served, ended_by_signals, listen, served
from alpro.served.versions import Role
from alpro.system.local_requests import Application, LocalRequests, Receive, Scope, Send

HOST = "127.0.0.1"
STOP_S = 2  # for requests in flight; the connections of open pages never end by themselves
# Gradio's scripts are inline and make functions from text.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
# Gradio reads these when it is imported: no statistics, and no look-ups of newer versions.
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_MCP_SERVER": "False"}


def run(
    root: Path,
    videos: str | Path,
    *,
    port: int = 7860,
    files: Sequence[NamedFile] = (),
    tasks: Mapping[Role, str | None] | None = None,
    limits: Limits | None = None,
    timeout_s: float = 60.0,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the page until SIGTERM or Ctrl-C. `root`: the project; `videos`: the folder below which folders can be chosen.

    Raises ConfigError for a port in use, and the errors of loading the models.
    """
    import uvicorn

    listening = listen(HOST, port, "choose another one with --port")
    with (
        ended_by_signals(),
        listening,
        tempfile.TemporaryDirectory(prefix="alpro-app-") as temporary,
        served(root, videos, files=files, tasks=tasks, limits=limits, say=say) as stack,
    ):
        os.environ.update({**QUIET, "GRADIO_TEMP_DIR": f"{temporary}/uploads"})
        app = create_app(stack, Path(temporary), timeout_s)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=STOP_S, server_header=False
        )
        logging.getLogger("uvicorn.error").addFilter(_no_open_pages)
        say(f"http://{HOST}:{listening.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listening])


def create_app(stack: Served, temporary: Path, timeout_s: float) -> Application:
    """Return the page as an application that answers this machine only. `temporary`: for copies of clips."""
    import gradio as gr
    from fastapi import FastAPI

    from alpro.app.clips import POSTER, ROUTE, ClipLinks
    from alpro.app.context import Page
    from alpro.app.page import build_page, style, theme
    from alpro.served.look import Prompters

    links = ClipLinks(temporary / "copies")
    page = Page(stack, links, Prompters(stack.root), timeout_s)
    blocks = build_page(page)
    blocks.queue(max_size=64, default_concurrency_limit=8)
    application: Any = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    application.add_route(ROUTE, links.respond, ["GET"])
    application.add_route(POSTER, links.poster, ["GET"])
    application = gr.mount_gradio_app(
        application, blocks, path="/", footer_links=[], run_history=False, show_error=False, ssr_mode=False, mcp_server=False,
        enable_monitoring=False, pwa=False, max_file_size=stack.limits.upload_bytes, theme=theme(), css=style(),
    )  # fmt: skip
    return LocalRequests(OwnOrigin(application))


def _no_open_pages(record: logging.LogRecord) -> bool:
    """Leave out of uvicorn's log that the stop of the server ends the connections of open pages."""
    ended = record.exc_info is not None and isinstance((record.exc_info or (None, None))[1], asyncio.CancelledError)
    return not ended and "timeout graceful shutdown exceeded" not in record.getMessage()


class OwnOrigin:
    """ASGI application around another one: tells browsers to load nothing from other hosts, and not to show it in a frame."""

    def __init__(self, inner: Application) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and add the headers to its answer."""

        async def with_headers(message: Scope) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        await self.inner(scope, receive, with_headers)
