"""The log: levels by -v and -q, JSON lines, and each message once."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alpro.errors import ConfigError
from alpro.terminal import logs

ROOT = Path(__file__).parents[2]
TRAINING = logs.get("alpro.training.log")
DATA = logs.get("alpro.data.media.index")


@pytest.fixture(autouse=True)
def defaults(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (logs.FORMAT, logs.LEVEL):
        monkeypatch.setenv(name, "")
    yield
    logs.root().setLevel(logging.INFO)


def emit() -> None:
    for logger in (TRAINING, DATA):
        logger.debug("a detail")
        logger.info("a step")
        logger.warning("a doubt")


@pytest.mark.parametrize(
    ("verbose", "quiet", "out", "err"),
    [
        (0, 0, ["a step"], ["alpro: warning: a doubt", "a step", "alpro: warning: a doubt"]),
        (0, 1, [], ["alpro: warning: a doubt"] * 2),
        (0, 2, [], []),
        (
            1, 0, ["alpro.training.log: a detail", "a step"],
            ["alpro: warning: a doubt", "alpro.data.media.index: a detail", "a step", "alpro: warning: a doubt"],
        ),
    ],
)  # fmt: skip
def test_options_select_the_messages(
    verbose: int, quiet: int, out: list[str], err: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(verbose, quiet)
    emit()
    printed = capsys.readouterr()
    assert (printed.out.splitlines(), printed.err.splitlines()) == (out, err)


def test_json_lines_have_level_logger_and_fields(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.FORMAT, "json")
    logs.configure()
    TRAINING.info("step %d", 10, extra={logs.FIELDS: {"step": 10, "loss": 1.5}})
    line = json.loads(capsys.readouterr().out)
    assert (line["level"], line["logger"], line["message"]) == ("info", "alpro.training.log", "step 10")
    assert (line["step"], line["loss"]) == (10, 1.5) and line["time"].endswith("+00:00")
    assert not logs.shows_progress()


def test_message_that_the_program_itself_prints_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    own = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(own)
    try:
        DATA.warning("a doubt")
    finally:
        logging.getLogger().removeHandler(own)
    assert capsys.readouterr().err.splitlines() == ["a doubt"]


@pytest.mark.parametrize(("name", "value"), [(logs.LEVEL, "loud"), (logs.FORMAT, "xml")])
def test_unknown_value_is_one_line(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        logs.configure()


def test_error_of_a_command_is_json_too() -> None:
    command = [sys.executable, "-m", "alpro", "data", "check", "nothing"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {logs.FORMAT: "json"}, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["level"] == "error" and "nothing" in json.loads(line)["message"]
