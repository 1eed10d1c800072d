"""A local web server that misbehaves on demand, for tests of downloads."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """The response for a path, with its faults."""

    content: bytes = b""
    status: int = 200
    cut: list[int] = field(default_factory=list)  # per response, in turn: close the connection after this many bytes
    ranges: bool = True
    claim: int | None = None  # a wrong Content-Length
    etag: str | None = '"one"'
    location: str | None = None
    seen: list[str] = field(default_factory=list)  # the Range header of each request


@contextmanager
def hostile(pages: dict[str, Page]) -> Iterator[str]:
    """Serve the pages and yield the address of the server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            page = pages.get(self.path) or Page(status=404)
            page.seen.append(self.headers.get("Range", ""))
            start = 0
            asked = re.match(r"bytes=(\d+)-", page.seen[-1])
            fresh = self.headers.get("If-Range") in (None, page.etag)
            if page.status == 200 and asked and page.ranges and fresh:
                start = int(asked[1])
                if start >= len(page.content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(page.content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(page.content) - 1}/{len(page.content)}")
            else:
                self.send_response(page.status)
            body = page.content[start:]
            self.send_header("Content-Length", str(len(body) if page.claim is None else page.claim - start))
            if page.etag:
                self.send_header("ETag", page.etag)
            if page.location:
                self.send_header("Location", page.location)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: page.cut.pop(0)] if page.cut else body)
            self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
