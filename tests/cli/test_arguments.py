"""Arguments: texts must be UTF-8, `~` is expanded in paths, and files may begin with a dash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from alpro.errors import DataError
from tests.cli.test_help import COMMANDS, ROOT

LATIN1 = os.fsdecode(b"what is the caf\xe9 ?")


def parsed(name: str, *arguments: str) -> dict[str, Any]:
    """Return the parameters of a command."""
    context = COMMANDS[name].make_context(name, list(arguments), parent=typer.Context(ROOT, info_name="alpro"))
    assert not context.args
    return dict(context.params)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ask", ["v.mp4", LATIN1, "--checkpoint", "c"]),
        ("match", ["v.mp4", "fine", LATIN1, "--checkpoint", "c"]),
        ("search", [LATIN1, "--checkpoint", "c", "--index", "i"]),
        ("ask", [LATIN1, "what ?", "--checkpoint", "c"]),
        ("data probe", [LATIN1]),
        ("data convert", ["--source", LATIN1, "--output", "o"]),
        ("train finetune", ["--task", "t", "--init", "i", "--output", "o", "-S", LATIN1]),
    ],
)
def test_an_argument_that_is_not_utf8_is_refused_in_one_line(name: str, arguments: list[str]) -> None:
    with pytest.raises(DataError) as error:
        parsed(name, *arguments)
    assert str(error.value) == r"argument 'what is the caf\xe9 ?' is not UTF-8 (byte 0xe9); write it in UTF-8"


def test_the_command_prints_the_line_without_a_traceback() -> None:
    command = [sys.executable, "-m", "alpro", "data", "probe", b"caf\xe9"]
    done = subprocess.run(command, capture_output=True, cwd=Path(__file__).parents[2], check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"alpro: argument 'caf\\xe9' is not UTF-8 (byte 0xe9); write it in UTF-8\n"


def test_the_home_folder_is_expanded_in_paths_but_not_in_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    values = parsed("ask", "~/v.mp4", "~/ is a question ?", "--checkpoint=~/c", "--tokenizer", "~")
    assert (values["video"], values["checkpoint"], values["tokenizer"]) == ("/home/me/v.mp4", "/home/me/c", "/home/me")
    assert values["question"] == "~/ is a question ?"
    assert str(parsed("data probe", "~/videos")["folder"]) == "/home/me/videos"
    assert list(map(str, parsed("data fetch", "msvd_qa", "--from", "~/a.tar", "--from", "b~")["local"])) == [
        "/home/me/a.tar",
        "b~",
    ]


def test_files_that_begin_with_a_dash_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("-4wsuPCjDBc_5_15.avi", "--abc.mp4", "-S4k.mp4"):
        (tmp_path / name).touch()
        assert parsed("ask", name, "what ?", "--checkpoint", "c")["video"] == f"./{name}"
    assert parsed("ask", "--checkpoint", "c", "--", "-none.mp4", "- what ?")["question"] == "- what ?"


@pytest.mark.parametrize("text", ["-none.mp4", "--none.avi", "- a man walks", "-a man"])
def test_texts_and_missing_files_that_begin_with_a_dash_get_a_hint(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="begins with a dash and is taken for an option; put -- before"):
        parsed("match", "v.mp4", text, "--checkpoint", "c")


def test_options_keep_their_meaning() -> None:
    values = parsed("search", "text", "--checkpoint", "c", "--index=i", "-k", "3")
    assert (values["count"], values["text"]) == (3, "text")
    changes = parsed("train finetune", "--task", "t", "--init", "i", "--output", "o", "-Srecipe=a b", "-S", "x=- y")["changes"]
    assert changes == ["recipe=a b", "x=- y"]
    assert parsed("launch", "--", "evaluate", "-Sa=b c")["command"] == ["evaluate", "-Sa=b c"]
