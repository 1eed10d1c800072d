"""Runs of `make ui`: one waits in Prefect's queue for a run that must be alone; a failed one is posted to a webhook."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.deploy import MOST_RUNS
from flows.run_lock import only_run, shared_run

from .conftest import Pages, pages, run, tiny_project, wait_for

pytestmark = pytest.mark.slow  # the servers, and the start of two runs


def ask(served: Pages, path: str, question: dict[str, Any] | None = None) -> Any:
    data = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(f"{served.prefect}/api/{path}", data, {"Content-Type": "application/json"})
    while True:
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 503:  # its database is busy
                raise
            time.sleep(1)


def start(served: Pages, deployment: str, **parameters: Any) -> str:
    """Start a run of a deployment; returns the run's id."""
    found = ask(served, f"deployments/name/{deployment}/{deployment}")
    return str(ask(served, f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"])


def state(served: Pages, flow: str) -> dict[str, Any]:
    return dict(ask(served, f"flow_runs/{flow}")["state"])


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[str]]]:
    """The address of a webhook, and the texts that were posted to it."""
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret-of-the-chat", texts
    server.shutdown()


def test_run_waits_for_one_that_is_alone_and_a_failed_one_is_posted(tmp_path: Path, webhook: tuple[str, list[str]]) -> None:
    address, texts = webhook
    root = tmp_path / "project"
    tiny_project(root)
    (root / "dvc.yaml").write_text("stages: {}\n")  # so that runs fail in seconds
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-a", "-m", "no stages", cwd=root)
    with pages(root, ALPRO_NOTIFY_URL=address) as served:
        with only_run(root, "a run of the command line"):
            first = start(served, "validate")
            wait_for(lambda: state(served, first)["name"] == "AwaitingConcurrencySlot", "run that was put back")
            assert "'a run of the command line' (process" in state(served, first)["message"]
        assert ask(served, "work_pools/alpro")["concurrency_limit"] == MOST_RUNS
        second = start(served, "finetune", task="msvd_qa")
        with shared_run(root, "a run beside them"):
            wait_for(lambda: [state(served, flow)["name"] for flow in (first, second)] == ["Failed"] * 2, "end of both runs")
        wait_for(lambda: len(texts) == 2, "messages")
    posted = {flow: next(text for text in texts if f"/flow-run/{flow}" in text) for flow in (first, second)}
    assert "validate" in posted[first] and "Failed" in posted[first] and "finetune" in posted[second]
    assert not [log for log in (root / ".prefect").glob("*.log") if "secret-of-the-chat" in log.read_text()]
