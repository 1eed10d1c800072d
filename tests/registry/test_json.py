"""With `--json`, `register`, `promote` and `lineage` print one JSON document on stdout and nothing else."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alpro.cli.main import app
from alpro.cli.registry import only_json_on_stdout
from alpro.config import Params
from alpro.registry import register
from alpro.registry.lineage import trace
from tests.tracking.tracked_project import write_checkpoint, write_locks

TASK, MODEL = "msvd_qa", "alpro-msvd_qa"


def call(root: Path, *words: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Any]:
    """Run `alpro WORDS` in a project; returns the exit code and the parsed stdout."""
    monkeypatch.chdir(root)
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    return result.exit_code, json.loads(result.stdout)


def test_register_prints_new_versions_and_runs(synced: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(synced, params, f"finetune/{TASK}", salt="better")
    write_locks(synced, params)
    code, document = call(synced, "register", "--candidates", TASK, "--json", monkeypatch=monkeypatch)
    assert code == 0 and document["registered"] == [f"{MODEL}/2"]
    assert document["runs"][f"finetune/{TASK}"] and document["parent"] and document["experiment"]
    again, unchanged = call(synced, "track", "sync", "--json", monkeypatch=monkeypatch)
    assert again == 0 and unchanged == register(synced, params).as_dict() and unchanged["registered"] == []


def test_promote_prints_the_checks_and_refuses_with_exit_code_1(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, document = call(synced, "promote", "--task", TASK, "--json", monkeypatch=monkeypatch)
    assert code == 1 and document["candidate"] == f"{MODEL}/1" and document["champion"] is None
    assert not document["passed"] and not document["moved"] and not document["already_champion"]
    (check,) = document["checks"]
    assert (check["name"], check["ok"]) == ("clean", False) and document["summary"].startswith("refused: clean (")


def test_lineage_prints_versions_with_their_data(synced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"models:/{MODEL}@candidate"
    code, document = call(synced, "lineage", uri, "--json", monkeypatch=monkeypatch)
    assert code == 0 and document == json.loads(json.dumps(trace(synced, uri).as_dict()))
    assert [version["name"] for version in document["versions"]] == [f"{MODEL}/1", "alpro-pretrain/1", "alpro-prompter/1"]
    assert document["versions"][0]["provenance"]["from"] == "alpro-pretrain/1" and document["versions"][0]["data"]
    assert document["restore"] == [] and "no commit contains it" in document["problem"]


def test_output_of_the_evaluation_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with only_json_on_stdout(True):
        print("from Python")
        os.system("echo from a child process")
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    output = capfd.readouterr()
    assert output.out == "{}\n"
    assert "from Python" in output.err and "from a child process" in output.err
