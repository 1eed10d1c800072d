"""The command line's help: every command has a panel, a sentence and an example that parses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

import alpro
from alpro.cli.main import app

ROOT: Any = typer.main.get_command(app)
EXAMPLE = re.compile(r"^Example: alpro (.+)$")


def commands(group: Any = ROOT, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return every command with its full name, such as `data check`."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_sentence_and_an_example_that_parses(name: str) -> None:
    command = COMMANDS[name]
    assert command.help and command.help.strip().endswith(".")
    example = EXAMPLE.match(command.epilog or "")
    assert example, f"alpro {name}: no example"
    words = shlex.split(example[1])
    assert words[: len(name.split())] == name.split()
    parent = typer.Context(ROOT, info_name="alpro")
    context = command.make_context(name, words[len(name.split()) :], parent=parent)
    assert not context.args


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_has_help_in_whole_words(name: str) -> None:
    for parameter in COMMANDS[name].params:
        text = getattr(parameter, "help", None)
        if parameter.name in ("help", "install_completion", "show_completion"):
            continue
        assert text, f"alpro {name}: {parameter.name} has no help"
        assert text[0].isupper() or text.startswith(("models:/", "prompter,", "train,")), text


def test_launched_command_keeps_its_own_options() -> None:
    parent = typer.Context(ROOT, info_name="alpro")
    context = COMMANDS["launch"].make_context("launch", ["--", "evaluate", "--task", "a", "--params", "b"], parent=parent)
    assert context.params["command"] == ["evaluate", "--task", "a", "--params", "b"]


def test_help_page_has_panels() -> None:
    page = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100", "TERM": "dumb"}).output
    for panel in ("Pipeline", "Data", "Models", "Evaluation", "Tracking and registry", "This machine"):
        assert re.search(rf"^╭─ {panel} ─+╮$", page, re.M), page


def test_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"alpro {alpro.__version__}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--record", "r", "--rerank", "5", "--videos", "v"], "--videos, --rerank: not with --record"),
        (["--record", "r", "--step", "best"], "--step: not with --record"),
        (["--zero-shot"], "--zero-shot: only with --record"),
        (["--no-ablations"], "--ablations: only with --record"),
    ],
)
def test_option_that_would_be_ignored_is_refused(options: list[str], message: str) -> None:
    result = CliRunner().invoke(
        app, ["evaluate", "--task", "msvd_qa", "--checkpoint", "none", *options], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 2 and message in result.output
