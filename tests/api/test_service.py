"""The HTTP service: its answers are the model's, and every error is JSON with the right status and a sentence."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from alpro import serving
from alpro.api import service as service_module
from alpro.api.metrics import Metrics
from alpro.api.run import TOKEN, checked_token, is_loopback
from alpro.api.service import create_app
from alpro.errors import ConfigError, DataError
from alpro.served.collections import Collections
from alpro.served.engine import Engine
from alpro.served.folder import VideoRoot
from alpro.served.limits import Limits, RequestError
from alpro.served.stack import Served, listen, served
from alpro.served.uploads import Uploads
from tests.served.conftest import CLIPS
from tests.serving.conftest import TEXTS

SECRET = "a-secret-of-some-length"
LOCAL = "http://127.0.0.1:8080"


def client_of(stack: Served, token: str | None = None, timeout_s: float = 30.0, metrics: Metrics | None = None) -> TestClient:
    app: Any = create_app(stack, metrics or Metrics(), timeout_s, token, local=token is None)
    return TestClient(app, base_url=LOCAL, raise_server_exceptions=False)


@pytest.fixture
def client(stack: Served) -> TestClient:
    return client_of(stack)


def error_of(response: Any, status: int, code: str) -> str:
    """Check the form of an error; return its sentence."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message"} and body["error"]["code"] == code
    assert "Traceback" not in response.text and len(body["error"]["message"]) < 400
    return body["error"]["message"]


def test_answers_are_the_models(client: TestClient, stack: Served, project: Path) -> None:
    asked = client.post("/ask", json={"video": CLIPS[0], "question": TEXTS[1]})
    expected = serving.ask(serving.load(project / "models/tiny/finetune/questions"), stack.videos.video(CLIPS[0]), TEXTS[1])
    assert asked.status_code == 200 and asked.json()["model"] == {
        "name": "models/tiny/finetune/questions",
        "origin": "checkpoint",
    }
    assert [row["answer"] for row in asked.json()["answers"]] == [answer.answer for answer in expected]
    matched = client.post("/match", json={"video": CLIPS[3], "texts": TEXTS}).json()["matches"]
    scores = serving.match(serving.load(project / "models/tiny/finetune/clips"), stack.videos.video(CLIPS[3]), TEXTS)
    assert [row["probability"] for row in matched] == pytest.approx([score.probability for score in scores], abs=1e-5)


def test_search_by_text_and_by_clip(client: TestClient, stack: Served) -> None:
    hits = client.post("/search", json={"text": TEXTS[0], "count": 3}).json()["hits"]
    expected = stack.collections.get(stack.videos.path).searcher.search(TEXTS[0], 3)
    assert [hit["video"] for hit in hits] == [hit.video for hit in expected] and len(hits) == 3
    similar = client.post("/search", json={"like": CLIPS[3], "count": 9}).json()["hits"]
    assert {hit["video"] for hit in similar} == set(CLIPS) - {CLIPS[3]} and similar[0]["score"] is None


def test_upload_is_answered_and_deleted(client: TestClient, stack: Served) -> None:
    data = stack.videos.video(CLIPS[0]).read_bytes()
    stored = client.post("/ask", json={"video": CLIPS[0], "question": TEXTS[1]}).json()
    assert client.post("/ask/upload", files={"file": ("x.mp4", data)}, data={"question": TEXTS[1]}).json() == stored
    matched = client.post("/match/upload", files={"file": ("x.mp4", data)}, data={"texts": TEXTS})
    assert [row["text"] for row in matched.json()["matches"]] == TEXTS
    assert list(stack.uploads.path.iterdir()) == []


@pytest.mark.parametrize(
    ("route", "body", "status", "code", "part"),
    [
        ("/ask", {"video": "one.mp4", "question": ""}, 422, "empty_text", "The question is empty"),
        ("/ask", {"video": "one.mp4", "question": "x" * 10_000}, 422, "text_too_long", "10,000 characters"),
        ("/ask", {"video": "one.mp4"}, 422, "invalid_request", "question: Field required"),
        ("/ask", {"video": "one.mp4", "question": "x", "qestion": "y"}, 422, "invalid_request", "qestion"),
        ("/ask", {"video": 1, "question": "x"}, 422, "invalid_request", "valid string"),
        ("/ask", {"video": "none.mp4", "question": "x"}, 404, "video_missing", "none.mp4"),
        ("/ask", {"video": "../one.mp4", "question": "x"}, 403, "outside_folder", "outside of the chosen folder"),
        ("/ask", {"video": "/etc/passwd", "question": "x"}, 403, "outside_folder", "outside of the chosen folder"),
        ("/ask", {"video": "broken.mp4", "question": "x"}, 415, "not_a_video", "broken.mp4 can't be read"),
        ("/match", {"video": "one.mp4", "texts": []}, 422, "empty_text", "write at least one"),
        ("/match", {"video": "one.mp4", "texts": ["x"] * 65}, 422, "too_many_texts", "at most 64"),
        ("/search", {}, 422, "invalid_request", "either `text` or `like`"),
        ("/search", {"text": " "}, 422, "empty_text", "The text is empty"),
        ("/search", {"text": "x", "count": 0}, 422, "invalid_request", "count"),
        ("/search", {"text": "x", "count": 101}, 422, "invalid_request", "less than or equal to 100"),
        ("/search", {"like": "broken.mp4"}, 422, "data_error", "data cannot be used"),
    ],
)
def test_bad_request_gets_a_sentence(client: TestClient, route: str, body: Any, status: int, code: str, part: str) -> None:
    assert part in error_of(client.post(route, json=body), status, code)


def test_bad_bodies_and_routes_get_a_sentence(client: TestClient) -> None:
    json_type = {"content-type": "application/json"}
    assert "JSON" in error_of(client.post("/ask", content=b"{", headers=json_type), 422, "invalid_request")
    error_of(client.post("/ask", content=b"[" * 100_000, headers=json_type), 400, "invalid_request")
    error_of(client.post("/ask", content=b" " * (2 << 20), headers=json_type), 413, "body_too_large")
    error_of(client.get("/nothing"), 404, "not_found")
    error_of(client.get("/ask"), 405, "method_not_allowed")
    surrogate = b'{"video": "one.mp4", "question": "\\ud83d"}'
    assert "half of a character" in error_of(client.post("/ask", content=surrogate, headers=json_type), 422, "invalid_text")


def test_upload_that_is_no_video_or_too_large_gets_a_sentence(client: TestClient, stack: Served) -> None:
    def upload(to: TestClient, data: bytes, name: str = "a.mp4") -> Any:
        return to.post("/ask/upload", files={"file": (name, data)}, data={"question": "x"})

    assert "not a video" in error_of(upload(client, b"hello\n" * 90), 415, "not_a_video")
    error_of(upload(client, b"hello", "<script>.exe"), 415, "not_a_video")
    limits = Limits(upload_bytes=1000)
    small = client_of(dataclasses.replace(stack, limits=limits, uploads=Uploads(limits)))
    error_of(upload(small, bytes(2000)), 413, "upload_too_large")
    error_of(upload(small, bytes(200_000)), 413, "upload_too_large")  # refused by its length, before it is read
    assert stack.uploads.path.is_dir() and list(stack.uploads.path.iterdir()) == []


def test_body_without_a_length_is_cut_off(stack: Served) -> None:
    limits = Limits(upload_bytes=1000)
    client = client_of(dataclasses.replace(stack, limits=limits, uploads=Uploads(limits)))

    def parts() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        for _ in range(100):
            yield bytes(10_000)

    response = client.post("/ask/upload", content=parts(), headers={"content-type": "multipart/form-data; boundary=b"})
    error_of(response, 413, "upload_too_large")


def test_full_queue_is_429_and_a_slow_model_is_504(stack: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, gate = Engine(stack.models, queue=1), threading.Event()
    compute = engine._compute
    monkeypatch.setattr(engine, "_compute", lambda jobs: (gate.wait(30), compute(jobs))[1])
    client = client_of(dataclasses.replace(stack, engine=engine), timeout_s=0.2)
    body = {"video": CLIPS[0], "question": TEXTS[1]}
    error_of(client.post("/ask", json=body), 504, "timeout")  # the model still works on it, so the queue of one is full
    refused = client.post("/ask", json=body)
    error_of(refused, 429, "busy")
    assert refused.headers["retry-after"] == "1"
    gate.set()
    engine.close()


def test_unexpected_failure_is_a_sentence(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, status, code in (
        (RuntimeError("boom /secret/path"), 500, "internal_error"),
        (DataError("/x"), 422, "data_error"),
    ):

        async def fail(*args: Any, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(service_module.Answering, "ask", fail)
            message = error_of(client.post("/ask", json={"video": CLIPS[0], "question": "x"}), status, code)
        assert "log" in message and "/" not in message


def test_token_is_needed_except_for_the_state_and_the_pages(stack: Served) -> None:
    client = client_of(stack, token=SECRET)
    body = {"video": CLIPS[0], "question": TEXTS[1]}
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": SECRET}, {"authorization": f"bearer {SECRET}x"}):
        response = client.post("/ask", json=body, headers=headers)
        assert "token" in error_of(response, 401, "unauthorized") and response.headers["www-authenticate"] == "Bearer"
    assert client.post("/ask", json=body, headers={"authorization": f"Bearer {SECRET}"}).status_code == 200
    assert client.get("/health").status_code == 200 and client.get("/docs").status_code == 200
    for route in ("/version", "/metrics"):
        error_of(client.get(route), 401, "unauthorized")


def test_other_hosts_need_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "example.org")] == [
        True
    ] * 3 + [False] * 3
    assert checked_token("127.0.0.1") is None
    with pytest.raises(ConfigError, match="set ALPRO_API_TOKEN"):
        checked_token("0.0.0.0")
    monkeypatch.setenv(TOKEN, "short")
    with pytest.raises(ConfigError, match="at least 16") as refused:
        checked_token("127.0.0.1")
    assert "short" not in str(refused.value)
    monkeypatch.setenv(TOKEN, SECRET)
    assert checked_token("0.0.0.0") == SECRET


def test_pages_of_other_sites_are_refused(client: TestClient) -> None:
    error_of(client.post("/ask", json={}, headers={"origin": "https://evil.example"}), 403, "forbidden")
    error_of(client.get("/health", headers={"host": "evil.example"}), 403, "forbidden")


def test_state_versions_and_metrics(stack: Served) -> None:
    metrics = Metrics()
    engine = Engine(stack.models, observe_batch=metrics.observe_batch)
    client = client_of(dataclasses.replace(stack, engine=engine), metrics=metrics)
    client.post("/ask", json={"video": CLIPS[0], "question": TEXTS[1]})
    client.post("/ask", json={"video": "none.mp4", "question": "x"})
    client.get("/a-path-nobody-has")
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["videos"] == len(CLIPS) and health["problems"] == []
    models = client.get("/version").json()["models"]
    assert models["ask"]["weights"] == stack.models.version("ask").weights and models["search"]["task"] == "retrieval"
    text = client.get("/metrics").text
    assert 'alpro_requests_total{route="/ask",status="200"} 1.0' in text
    assert 'alpro_requests_total{route="/ask",status="404"} 1.0' in text
    assert 'alpro_requests_total{route="other",status="404"} 1.0' in text
    assert 'alpro_request_seconds_count{route="/ask"} 2.0' in text
    assert 'alpro_batch_requests_count{kind="ask"} 1.0' in text
    assert "alpro_queue_requests 0.0" in text
    assert 'alpro_model_info{name="models/tiny/finetune/questions",origin="checkpoint",role="ask"} 1.0' in text
    engine.close()


def test_api_pages_load_nothing_from_other_hosts(client: TestClient) -> None:
    page = client.get("/docs").text
    for link in re.findall(r"""(?:src|href|url)["']?\s*[=:]\s*["']([^"']+)""", page):
        path = link.removeprefix(LOCAL)
        assert path.startswith("/") and client.get(path).status_code == 200, link
    routes = client.get("/openapi.json").json()["paths"]
    assert set(routes) == {"/search", "/ask", "/ask/upload", "/match", "/match/upload", "/health", "/version", "/metrics"}
    assert {"404", "413", "422", "429", "503", "504"} <= set(routes["/ask"]["post"]["responses"])


def test_port_in_use_is_one_line(project: Path, videos: Path) -> None:
    with listen("127.0.0.1", 0, "") as busy:
        port = busy.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 cannot be used .*; choose another one with --port"):
            listen("127.0.0.1", port, "choose another one with --port")


def test_connections_send_small_answers_at_once() -> None:
    options: list[int] = []

    async def accept_one() -> None:
        accepted = asyncio.Event()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            options.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
            accepted.set()

        with listen("127.0.0.1", 0, "") as listening:
            async with await asyncio.start_server(accept, sock=listening):
                _, writer = await asyncio.open_connection(*listening.getsockname())
                await accepted.wait()
                writer.close()

    asyncio.run(accept_one())
    assert options == [1]


@pytest.mark.slow
def test_command_serves_until_it_is_stopped(project: Path, videos: Path, tmp_path: Path) -> None:
    import json
    import signal
    import urllib.request

    command = [sys.executable, "-m", "alpro", "serve", "--videos", str(videos), "--port", "0"]
    import os

    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "ALPRO_STATE": str(tmp_path)}
    with subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = next(line for line in process.stdout if line.startswith("http")).split()[0]
        data = json.dumps({"video": CLIPS[0], "question": TEXTS[1]}).encode()
        request = urllib.request.Request(f"{address}/ask", data, {"content-type": "application/json"})
        assert len(json.load(urllib.request.urlopen(request))["answers"]) == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=1)


def test_without_a_model_every_route_says_so(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPRO_STATE", str(tmp_path / "state"))
    with served(tmp_path, videos) as empty:
        client = client_of(empty)
        for route, body in (("/ask", {"video": CLIPS[0], "question": "x"}), ("/match", {"video": CLIPS[0], "texts": ["x"]})):
            assert "Train one (`make repro`)" in error_of(client.post(route, json=body), 503, "no_model")
        health = client.get("/health")
        assert health.status_code == 503 and health.json()["status"] == "unavailable" and health.json()["models"] == {}


def test_folder_that_disappears_is_404_and_unavailable(stack: Served, videos: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(videos, tmp_path / "clips"))
    collections = Collections(stack.models, state=tmp_path)
    client = client_of(dataclasses.replace(stack, videos=VideoRoot(folder), collections=collections))
    error_of(client.post("/search", json={"text": "x"}), 409, "not_indexed")
    collections.index(folder)
    assert client.post("/search", json={"text": "x"}).status_code == 200
    shutil.rmtree(folder)
    error_of(client.post("/search", json={"text": "x"}), 404, "folder_missing")
    error_of(client.post("/ask", json={"video": CLIPS[0], "question": "x"}), 404, "video_missing")
    assert client.get("/health").status_code == 503
    with pytest.raises(RequestError, match="does not exist"):
        VideoRoot(folder)
