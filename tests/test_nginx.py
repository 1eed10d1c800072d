"""deploy/nginx.conf in a real nginx, in front of servers of the tests. Needs nginx (Debian: apt-get install nginx-light)."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from flows.team import compose
from flows.team.layout import ADMIN

CONFIGURATION = Path(__file__).parents[1] / "deploy/nginx.conf"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
SERVERS = {4200: "prefect:4200", 5000: "mlflow:5000", 8333: "s3:8333", 7860: "127.0.0.1:7861"}
HEALTH = 8080
PAGE = 7860  # the one without a password of its own
UPLOAD_BYTES = 20_000_000
PATIENCE_S = 30

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


class Upstream:
    """ASGI application: describes each request, echoes websockets, and streams in two pieces at /stream."""

    def __init__(self) -> None:
        self.read = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
            return
        headers = [(b"x-frame-options", b"DENY"), (b"content-type", b"text/event-stream")]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        if scope["path"] == "/stream":
            await send(start)
            await send({"type": "http.response.body", "body": b"first\n", "more_body": True})
            await self.read.wait()
            await send({"type": "http.response.body", "body": b"second\n"})
            return
        if scope["path"] == "/first-was-read":
            self.read.set()
        received, more = 0, True
        while more:
            message = await receive()
            received, more = received + len(message.get("body", b"")), message.get("more_body", False)
        answer = {
            "port": scope["server"][1],
            "path": scope["raw_path"].decode(),
            "bytes": received,
            "headers": {name.decode(): value.decode() for name, value in scope["headers"]},
        }
        await send(start)  # after the whole request, as servers do that store an upload
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


@dataclass
class Proxy:
    """A running nginx: its ports, and those behind it, by the ports of the configuration."""

    ports: dict[int, int]
    behind: dict[int, int]
    trusted: ssl.SSLContext
    password: str

    def authorization(self, port: int) -> dict[str, str]:
        return {"Authorization": f"Basic {base64.b64encode(self.password.encode()).decode()}"} if port == PAGE else {}

    def request(self, port: int, path: str = "/", body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection("localhost", self.ports[port], context=self.trusted, timeout=PATIENCE_S)
        connection.request("GET" if body is None else "PUT", path, body, {**self.authorization(port), **headers})
        return connection.getresponse()

    def described(self, port: int, *words: Any, **headers: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.request(port, *words, **headers).read())
        return answer


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


def rendered(folder: Path, ports: dict[int, int], behind: dict[int, int]) -> str:
    """Return the configuration with the files and ports of a test in place of the containers'."""
    text = CONFIGURATION.read_text()
    changes = {
        "/run/secrets/tls_certificate": f"{folder}/secrets/tls.crt",
        "/run/secrets/tls_key": f"{folder}/secrets/tls.key",
        "/run/secrets/app_users": f"{folder}/secrets/app_users",
        f"127.0.0.1:{HEALTH}": f"127.0.0.1:{ports[HEALTH]}",
        **{name: f"127.0.0.1:{behind[port]}" for port, name in SERVERS.items()},
        **{f"listen {port} ssl": f"listen 127.0.0.1:{ports[port]} ssl" for port in SERVERS},
    }
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    return text.replace("http {\n", f"http {{\n{own}", 1)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("nginx")
    compose.make_secrets(folder)
    listening = {port: socket.create_server(("127.0.0.1", 0)) for port in SERVERS}
    ports = dict(zip((*SERVERS, HEALTH), free_ports(len(SERVERS) + 1), strict=True))
    behind = {port: server.getsockname()[1] for port, server in listening.items()}
    (folder / "nginx.conf").write_text(rendered(folder, ports, behind))
    user = "user root; " if os.geteuid() == 0 else ""  # nobody else can enter the folder
    words = [str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    words += ["-g", f"{user}daemon off; pid {folder}/pid;"]
    valid = subprocess.run([*words, "-t"], capture_output=True, text=True)
    assert valid.returncode == 0 and "warn" not in valid.stderr, valid.stderr

    server = uvicorn.Server(uvicorn.Config(Upstream(), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [*listening.values()]}, daemon=True)
    thread.start()
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        wait_for(process, ports[HEALTH], folder / "error.log")
        trusted = ssl.create_default_context(cafile=str(folder / "secrets/tls.crt"))
        yield Proxy(ports, behind, trusted, f"{ADMIN}:{(folder / 'secrets/app').read_text().strip()}")
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        server.should_exit = True
        thread.join(PATIENCE_S)


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)


@pytest.mark.parametrize("port", SERVERS)
def test_each_port_leads_to_its_server_as_the_client_asked(proxy: Proxy, port: int) -> None:
    """A signature of S3 covers the host and the path as they were sent."""
    asked = "/a%2Fb%20c//d?x=%26&y"
    answer = proxy.described(port, asked)
    assert answer["port"] == proxy.behind[port]
    assert asked.startswith(answer["path"]) and answer["path"] == "/a%2Fb%20c//d"
    assert answer["headers"]["host"] == f"localhost:{proxy.ports[port]}"
    assert answer["headers"]["x-forwarded-proto"] == "https"


@pytest.mark.parametrize("port", SERVERS)
def test_plain_http_is_refused(proxy: Proxy, port: int) -> None:
    connection = http.client.HTTPConnection("localhost", proxy.ports[port], timeout=PATIENCE_S)
    connection.request("GET", "/", headers=proxy.authorization(port))
    assert connection.getresponse().status == 400


def test_old_versions_of_tls_are_refused(proxy: Proxy) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", proxy.ports[5000]), PATIENCE_S) as plain,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(plain)


def echoed(address: str, trusted: ssl.SSLContext, headers: dict[str, str]) -> str | bytes:
    """Return the answer to "hello" on a websocket. (The client with threads hung at 2 of 6,000 connections with TLS.)"""

    async def talk() -> str | bytes:
        async with asyncio.timeout(PATIENCE_S), connect(address, ssl=trusted, additional_headers=headers) as opened:
            await opened.send("hello")
            return await opened.recv()

    return asyncio.run(talk())


def test_web_page_asks_for_a_password(proxy: Proxy) -> None:
    wrong = base64.b64encode(f"{ADMIN}:wrong".encode()).decode()
    assert proxy.request(PAGE, Authorization="").status == 401
    assert proxy.request(PAGE, Authorization=f"Basic {wrong}").status == 401
    assert proxy.request(PAGE).status == 200
    with pytest.raises(InvalidStatus, match="401"):
        echoed(f"wss://localhost:{proxy.ports[PAGE]}/", proxy.trusted, {})


def test_passwords_of_the_servers_reach_them(proxy: Proxy) -> None:
    assert proxy.described(5000, Authorization="Basic eDp5")["headers"]["authorization"] == "Basic eDp5"


@pytest.mark.parametrize("port", SERVERS)
def test_large_upload_passes(proxy: Proxy, port: int) -> None:
    assert proxy.described(port, "/checkpoint", bytes(UPLOAD_BYTES))["bytes"] == UPLOAD_BYTES


@pytest.mark.parametrize("port", SERVERS)
def test_websocket_passes(proxy: Proxy, port: int) -> None:
    assert echoed(f"wss://localhost:{proxy.ports[port]}/events", proxy.trusted, proxy.authorization(port)) == "hello"


def test_piece_of_a_stream_is_passed_on_at_once(proxy: Proxy) -> None:
    """The second piece is sent after the first was read, as with the progress of the web page."""
    stream = proxy.request(PAGE, "/stream")
    assert stream.readline() == b"first\n"
    proxy.described(PAGE, "/first-was-read")
    assert stream.readline() == b"second\n"


@pytest.mark.parametrize("authorized", [True, False])
def test_answers_carry_each_security_header_once(proxy: Proxy, authorized: bool) -> None:
    answer = proxy.request(PAGE, **({} if authorized else {"Authorization": ""}))
    names = ("X-Frame-Options", "X-Content-Type-Options", "Referrer-Policy", "Server")
    assert [answer.headers.get_all(name) for name in names] == [["SAMEORIGIN"], ["nosniff"], ["same-origin"], ["nginx"]]


def test_health_check_answers(proxy: Proxy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.ports[HEALTH], timeout=PATIENCE_S)
    connection.request("GET", "/")
    assert connection.getresponse().status == 204
