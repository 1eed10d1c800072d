"""`make ui` with its real servers: it prints their addresses, and Ctrl-C ends all of them."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

import pytest

from flows.pipeline import FLOWS

from .conftest import REPOSITORY, pages, run

pytestmark = pytest.mark.slow  # three servers start


PASSWORD = "a-word-that-nobody-guesses"


def count_deployments(prefect: str, password: str | None) -> int:
    """Return the number of deployments; raises HTTPError if the server denies access."""
    asked = urllib.request.Request(f"{prefect}/api/deployments/count", b"{}", {"Content-Type": "application/json"})
    if password:
        asked.add_header("Authorization", f"Basic {b64encode(f'somebody:{password}'.encode()).decode()}")
    with urllib.request.urlopen(asked) as answer:
        return json.load(answer)


def test_pages_respond_require_the_password_and_end_together(tmp_path: Path) -> None:
    root = tmp_path / "project"
    run("git", "clone", "-q", str(REPOSITORY), str(root), cwd=tmp_path)
    with pages(root, PREFECT_SERVER_API_AUTH_STRING=f"somebody:{PASSWORD}") as started:
        for address in (f"{started.prefect}/deployments", f"{started.mlflow}/#/models"):
            page = urllib.request.Request(address, headers={"Accept": "text/html"})  # else Prefect answers 404
            with urllib.request.urlopen(page) as answer:
                assert b"<html" in answer.read()
        for password in (None, "guessed"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                count_deployments(started.prefect, password)
        assert count_deployments(started.prefect, PASSWORD) == len(FLOWS), "the deployments were made with the password"
        started.end(signal.SIGINT)
    logs = [started.log, *(root / ".prefect").glob("*.log")]
    assert len(logs) > 4 and not [log for log in logs if PASSWORD in log.read_text()]
