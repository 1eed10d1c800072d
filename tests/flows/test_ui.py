"""`make ui` with its real servers: it says where, and a Ctrl-C ends all of it."""

from __future__ import annotations

import signal
import urllib.request
from pathlib import Path

import pytest

from .conftest import REPOSITORY, pages, run

pytestmark = pytest.mark.slow  # three servers start


def test_the_pages_answer_and_end_together(tmp_path: Path) -> None:
    root = tmp_path / "project"
    run("git", "clone", "-q", str(REPOSITORY), str(root), cwd=tmp_path)
    with pages(root) as started:
        for address in (f"{started.prefect}/deployments", f"{started.mlflow}/#/models"):
            with urllib.request.urlopen(address) as answer:
                assert b"<html" in answer.read()
        started.end(signal.SIGINT)
