"""Prefect's own list commands against the server of `make ui`: with versions that do not fit each other they get HTTP 422."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import REPOSITORY, Pages, pages, run

pytestmark = pytest.mark.slow  # the servers start, and each command imports Prefect
ELSEWHERE = {"cloud", "profile"}  # Prefect's own service, and a file of the user
ARGUMENTS = {"deployment schedule ls": ["pipeline/pipeline"]}


def list_commands(app: Any, words: tuple[str, ...] = (), known: frozenset[int] = frozenset()) -> Iterator[str]:
    """Yield each `ls` of Prefect's command line once, under its first name."""
    groups: dict[int, str] = {}
    for name in app:
        if not name.startswith("-") and name not in ELSEWHERE and id(app[name]) not in known:
            groups.setdefault(id(app[name]), name)
    for name in groups.values():
        if name == "ls":
            yield " ".join((*words, name))
        else:
            yield from list_commands(app[name], (*words, name), known | {id(app[name])})


def prefect(served: Pages, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PREFECT_API_URL": f"{served.prefect}/api", "COLUMNS": "160"}
    command = [str(Path(sys.executable).with_name("prefect")), *words]
    return subprocess.run(command, env=environment, cwd=served.root, capture_output=True, text=True)


def test_every_list_command_works(tmp_path: Path) -> None:
    from prefect.cli._app import _app as app

    commands = list(list_commands(app))
    assert {"deployment ls", "flow-run ls", "flow ls", "work-pool ls", "work-queue ls", "artifact ls", "block type ls"} <= {
        *commands
    }
    root = tmp_path / "project"
    run("git", "clone", "-q", str(REPOSITORY), str(root), cwd=tmp_path)
    with pages(root) as served:
        started = prefect(served, "deployment", "run", "pipeline/pipeline", "--start-in", "2 hours")
        assert started.returncode == 0, started.stdout + started.stderr
        done = {command: prefect(served, *command.split(), *ARGUMENTS.get(command, [])) for command in commands}
        listed = json.loads(prefect(served, "flow-run", "ls", "--output", "json").stdout)
        done["flow-run logs"] = prefect(served, "flow-run", "logs", listed[0]["id"])
    failed = {command: one.stdout + one.stderr for command, one in done.items() if one.returncode}
    assert not failed
    assert "pipeline/pipeline" in done["deployment ls"].stdout and "alpro" in done["work-pool ls"].stdout
    assert "SCHEDULED" in done["flow-run ls"].stdout
