"""Checks between the network and the routes: token, size of the body, metrics. Plain ASGI, as they run for every request."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Collection

from alpro.api.metrics import Metrics
from alpro.served.limits import Limits, RequestError
from alpro.system.local_requests import Application, Receive, Scope, Send

JSON_BYTES = 1 << 20  # of a body without files
UPLOADS = 8  # at the same time; each may take upload_bytes of disk
FORM_BYTES = 1 << 16  # of a multipart body beside its file
# Answered without a token: the state for probes, and the pages on the API, which a browser opens.
OPEN = ("/", "/health", "/docs", "/openapi.json", "/swagger/swagger-ui-bundle.js", "/swagger/swagger-ui.css")


class TokenCheck:
    """Answers 401 to requests without `Authorization: Bearer TOKEN`, except for the routes in OPEN."""

    def __init__(self, inner: Application, token: str) -> None:
        self.inner, self.expected = inner, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on or refuse it."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            given = next((value for name, value in scope["headers"] if name.lower() == b"authorization"), b"")
            if not hmac.compare_digest(given, self.expected):
                error = RequestError(401, "unauthorized", "The request has no valid token; send `Authorization: Bearer TOKEN`.")
                await refuse(error, send, {"www-authenticate": "Bearer"})
                return
        await self.inner(scope, receive, send)


class BodyLimit:
    """Answers 413 to a body with too many bytes, and 429 to more uploads at a time than UPLOADS."""

    def __init__(self, inner: Application, limits: Limits) -> None:
        self.inner, self.limits, self.uploads = inner, limits, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on while its body is small enough."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        upload = headers.get(b"content-type", b"").startswith(b"multipart/")
        most = self.limits.upload_bytes + FORM_BYTES if upload else JSON_BYTES
        too_large = self.limits.too_large() if upload else RequestError(413, "body_too_large", "The request is too large.")
        if int(headers.get(b"content-length", b"0") or 0) > most:
            await refuse(too_large, send)
            return
        if upload and self.uploads >= UPLOADS:
            await refuse(RequestError(429, "busy", f"{UPLOADS} uploads are being received; try again in a moment."), send)
            return
        received, refused = 0, False

        async def counted() -> Scope:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:  # sent without a length
                raise too_large
            return message

        async def replaced(message: Scope) -> None:
            """Send the error in place of the answer that the application gives to the failed reading."""
            nonlocal refused
            if received <= most:
                await send(message)
            elif not refused:
                refused = True
                await refuse(too_large, send)

        self.uploads += upload
        try:
            await self.inner(scope, counted, replaced)
        finally:
            self.uploads -= upload


class Measured:
    """Counts requests and their time by route; a path that is no route counts as `other`."""

    def __init__(self, inner: Application, metrics: Metrics, routes: Collection[str]) -> None:
        self.inner, self.metrics, self.routes = inner, metrics, frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count it."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def noted(message: Scope) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.inner(scope, receive, noted)
        finally:
            route = scope["path"] if scope["path"] in self.routes else "other"
            self.metrics.observe_request(route, status, time.perf_counter() - start)


async def refuse(error: RequestError, send: Send, headers: dict[str, str] | None = None) -> None:
    """Answer with an error in the service's form."""
    body = json.dumps({"error": {"code": error.code, "message": str(error)}}).encode()
    more = {"retry-after": "1"} if error.status == 429 else {}
    fields = {"content-type": "application/json", "content-length": str(len(body)), **more, **(headers or {})}
    encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
