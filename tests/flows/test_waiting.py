"""Runs of `make ui`: the second one waits in Prefect's queue, not as Running; a failed one is posted to a webhook."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.run_lock import only_run

from .conftest import Pages, pages, run, tiny_project, wait_for

pytestmark = pytest.mark.slow  # the servers, and the start of two runs
WAITING = ("Scheduled", "Late")


def ask(served: Pages, path: str, question: dict[str, Any] | None = None) -> Any:
    data = None if question is None else json.dumps(question).encode()
    request = urllib.request.Request(f"{served.prefect}/api/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


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


def test_runs_wait_in_the_queue_and_a_failed_one_is_posted(tmp_path: Path, webhook: tuple[str, list[str]]) -> None:
    address, texts = webhook
    root = tmp_path / "project"
    tiny_project(root)
    (root / "dvc.yaml").write_text("stages: {}\n")  # so that runs fail in seconds
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-a", "-m", "no stages", cwd=root)
    with pages(root, ALPRO_NOTIFY_URL=address) as served:
        with only_run(root, "a run of the command line"):
            first = start(served, "validate")
            wait_for(lambda: state(served, first)["name"] == "AwaitingConcurrencySlot", "run that was put back")
            assert "'a run of the command line' is running" in state(served, first)["message"]
        assert ask(served, "work_pools/alpro")["concurrency_limit"] == 1
        wait_for(lambda: state(served, first)["name"] in ("Pending", "Submitting", "Running"), "start of the run")
        second = start(served, "finetune", task="msvd_qa")
        while state(served, first)["type"] in ("PENDING", "RUNNING"):
            assert state(served, second)["name"] in WAITING or state(served, first)["type"] not in ("PENDING", "RUNNING")
            time.sleep(0.2)
        assert state(served, first)["name"] == "Failed"
        wait_for(lambda: state(served, second)["name"] == "Failed", "end of the second run")
        wait_for(lambda: len(texts) == 2, "messages")
    assert "validate" in texts[0] and "Failed" in texts[0] and f"/flow-run/{first}" in texts[0]
    assert "finetune" in texts[1] and f"/flow-run/{second}" in texts[1]
    assert not [log for log in (root / ".prefect").glob("*.log") if "secret-of-the-chat" in log.read_text()]
