"""The launcher's bar: on a terminal alone, below the lines, and of what is under way now."""

from __future__ import annotations

import io
import re
import sys

import pytest

from alpro.launch.bar import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_stands_below_the_lines_and_shows_steps_and_then_what_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, bar = Terminal(), Bar()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal)
    with bar.shown():
        for what in ("reading", "computing", "exchange"):
            bar.move(what, 3, 10)
        print("step 3/10  loss 2.5 [vtc]")
        bar.move("validation", 1, 4)
    shown = terminal.getvalue()
    assert "\nstep 3/10  loss 2.5 [vtc]\n" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "\n", shown), "as it was printed"
    last = shown.rpartition("loss")[2]
    assert re.search(r"training.*3/10", last) and re.search(r"validation.*1/4", last)
    assert "exchange" not in shown and "training" not in last.rpartition("validation")[2]


def test_in_a_log_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    with bar.shown():
        bar.move("computing", 3, 10)
    assert capsys.readouterr() == ("", "")
