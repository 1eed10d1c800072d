"""Requests that a server on this machine answers: those of its own pages and of programs, not of other web sites.

A browser sends requests of any web page to 127.0.0.1, and a page whose own name an attacker points there (DNS rebinding) may
even read the answers. CORS settings only keep other pages from reading. Both kinds of requests are therefore refused here, by
their `Host` and `Origin` headers, before they reach the application.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
VARIABLE = "UI_HOSTS"  # further names, for example of a reverse proxy: `name,name`
POLICY_VIOLATION = 1008  # close code of a websocket


def further_hosts() -> list[str]:
    """Return the host names in UI_HOSTS, under which a reverse proxy serves the pages."""
    return [name.strip().lower() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def refusal(hosts: list[str], origins: list[str], further: Sequence[str] = ()) -> str | None:
    """Return why a request with these `Host` and `Origin` headers is refused, or None."""
    if len(hosts) != 1 or len(origins) > 1:
        return "a request needs one Host header, and at most one Origin header"
    host = _split(f"//{hosts[0]}")
    if host is None or host.hostname not in (*LOOPBACK, *further):
        return f"Host {hosts[0]!r} is not a name of this server; set {VARIABLE} for the name of a reverse proxy"
    if not origins:
        return None  # not from a web page
    origin = _split(origins[0])
    same_port = origin is not None and (origin.port or 80) == (host.port or 80)
    if origin is None or not (origin.hostname in further or (origin.hostname in LOOPBACK and same_port)):
        return f"Origin {origins[0]!r}: requests from pages of other sites are refused"
    return None


def _split(address: str) -> SplitResult | None:
    """Return the parts of an address, or None if it or its port is invalid."""
    try:
        parts = urlsplit(address)
        return parts if parts.port is None or parts.port > 0 else None
    except ValueError:
        return None


class LocalRequests:
    """ASGI application around another one: answers 403 to requests of other web pages and for other hosts."""

    def __init__(self, inner: Application, as_json: bool = False) -> None:
        """`as_json`: answer `{"error": {"code": "forbidden", "message": ...}}` instead of a line of text."""
        self.inner, self.as_json, self.further = inner, as_json, further_hosts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on or refuse it; lifespan events are passed on."""
        if scope["type"] in ("http", "websocket"):
            headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
            hosts, origins = ([value for name, value in headers if name == key] for key in (b"host", b"origin"))
            if reason := refusal(hosts, origins, self.further):
                await _refuse(scope["type"], reason, self.as_json, receive, send)
                return
        await self.inner(scope, receive, send)


async def _refuse(kind: str, reason: str, as_json: bool, receive: Receive, send: Send) -> None:
    if kind == "websocket":
        await receive()  # its opening
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return
    text = json.dumps({"error": {"code": "forbidden", "message": reason}}) if as_json else f"{reason}\n"
    body, kind_of_text = text.encode(), b"application/json" if as_json else b"text/plain; charset=utf-8"
    headers = [(b"content-type", kind_of_text), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
