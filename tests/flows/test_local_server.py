"""Prefect's server and MLflow's refuse requests that a browser sends for the page of another site."""

from __future__ import annotations

import asyncio
import fnmatch
import http.client
import json
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from alpro.system.local_requests import LocalRequests, refusal
from flows.local_server import mlflow_hosts, page_origins
from flows.server import embedded_server

PAGE = "http://127.0.0.1:4200"
EVIL = "https://evil.example"
ACCEPTED = [
    ("127.0.0.1:4200", None),  # a program
    ("127.0.0.1:4200", PAGE),
    ("localhost:4200", "http://localhost:4200"),
    ("127.0.0.1:4200", "http://localhost:4200"),  # the pages call the address in PREFECT_API_URL
    ("localhost:8080", "http://localhost:8080"),  # through a tunnel
    ("[::1]:4200", "http://[::1]:4200"),
    ("LOCALHOST:4200", None),
    ("localhost", "http://localhost"),
]
REFUSED = [
    ("127.0.0.1:4200", EVIL),
    ("127.0.0.1:4200", "null"),  # a sandboxed frame, or a file
    ("127.0.0.1:4200", "http://127.0.0.1:9"),  # another server of this machine
    ("127.0.0.1:4200", "http://127.0.0.1.evil.example:4200"),
    ("127.0.0.1:4200", "http://evil.example:4200"),
    ("127.0.0.1:4200", ""),
    ("127.0.0.1:4200", "http://localhost:x"),
    ("evil.example:4200", None),  # DNS rebinding
    ("evil.example:4200", "http://evil.example:4200"),
    ("127.0.0.1.evil.example:4200", None),
    ("127.0.0.1@evil.example:4200", None),
    ("10.evil.example", None),
    ("", None),
    ("[", None),
]


@pytest.mark.parametrize(("host", "origin"), ACCEPTED)
def test_programs_and_own_pages_are_served(host: str, origin: str | None) -> None:
    assert refusal([host], [] if origin is None else [origin]) is None


@pytest.mark.parametrize(("host", "origin"), REFUSED)
def test_other_sites_are_refused(host: str, origin: str | None) -> None:
    assert refusal([host], [] if origin is None else [origin])


def test_a_request_without_host_or_with_two_is_refused() -> None:
    for hosts, origins in (([], []), (["localhost", "evil.example"], []), (["localhost"], ["http://localhost", EVIL])):
        assert "one Host header" in (refusal(hosts, origins) or "")


def test_a_reverse_proxy_is_served_under_the_names_in_ui_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UI_HOSTS", "alpro.example.org, Other.example")
    seen = call({"host": "127.0.0.1:4200", "origin": "https://alpro.example.org"})
    assert seen == ["inner"] == call({"host": "other.example"}) and call({"host": "evil.example"}) == [403]
    assert "https://alpro.example.org" in page_origins(4200)
    assert "alpro.example.org" in mlflow_hosts()[1].split(",") and mlflow_hosts()[2] == "--cors-allowed-origins"


def call(headers: dict[str, str], kind: str = "http") -> list[Any]:
    """Send a request through the check; return `inner` if it was passed on, or the status or close code."""
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append("inner")

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if "status" in message or "code" in message:
            seen.append(message.get("status", message.get("code")))

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(LocalRequests(inner)({"type": kind, "headers": pairs}, receive, send))
    return seen


def test_websockets_are_checked_and_the_start_of_the_server_is_not() -> None:
    assert call({"host": "127.0.0.1:1", "origin": EVIL}, "websocket") == [1008]
    assert call({"host": "127.0.0.1:1"}, "websocket") == ["inner"] == call({}, "lifespan")


def test_mlflow_gets_no_pattern_that_a_domain_name_matches() -> None:
    allowed = mlflow_hosts()[1].split(",")

    def passes(host: str) -> bool:  # as in mlflow.server.security_utils.is_allowed_host_header
        return any(fnmatch.fnmatch(host, pattern) if "*" in pattern else host == pattern for pattern in allowed)

    for host in ("127.0.0.1:5000", "localhost:5000", "[::1]:5000", "localhost"):
        assert passes(host), host
    for host in ("10.evil.example", "192.168.evil.example:5000", "evil.example:5000", "127.0.0.1.evil.example:5000"):
        assert not passes(host), host


@pytest.mark.slow
def test_the_server_of_a_run_refuses_foreign_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    with embedded_server(tmp_path):
        port = urlsplit(PREFECT_API_URL.value()).port
        assert port
        for headers, status in (
            ({}, 201),
            ({"Origin": EVIL}, 403),
            ({"Origin": EVIL, "Content-Type": "text/plain"}, 403),
            ({"Host": f"evil.example:{port}"}, 403),
        ):
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            body = json.dumps({"name": f"flow of {os.getpid()}"})
            asked.request("POST", "/api/flows/", body, {"Content-Type": "application/json", **headers})
            assert asked.getresponse().status == status, headers
