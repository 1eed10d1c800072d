"""Progress bars: on a terminal only, below other output, for the work that is running now."""

from __future__ import annotations

import io
import re
import sys

import pytest

from alpro.terminal import progress
from alpro.terminal.progress import Bar, reporting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_is_below_the_lines_and_its_label_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal)
    bar = Bar(sys.stdout, transient=True)
    with bar.shown():
        bar.update("training", 3, 10)
        print("step 3/10  loss 2.5 [vtc]")
        bar.print("a line [of] its own")
        bar.update("validation", 1, 4)
    output = terminal.getvalue()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "\n", output)
    assert "\nstep 3/10  loss 2.5 [vtc]\n" in lines and "\na line [of] its own\n" in lines, "as they were printed"
    last = output.rpartition("its own")[2]
    assert re.search(r"training.*3/10", last) and re.search(r"validation.*1/4", last)
    assert "training" not in last.rpartition("validation")[2]


def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar(sys.stdout)
    with bar.shown():
        bar.update("training", 3, 10)
        assert not bar.visible
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("unit", "line"), [("files", "probe: 5/? files\n"), ("bytes", "probe: 0 MB\n")])
def test_without_a_terminal_progress_is_a_line_on_stderr(
    unit: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with reporting("probe", unit) as report:
        report(5, None)
    assert capsys.readouterr() == ("", line)


def test_last_line_appears_at_once_if_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for last_line in (False, True):
        with reporting("msvd_qa full", "", last_line=last_line) as report:
            report(1, 2)
            report(2, 2)
        assert capsys.readouterr() == ("", "msvd_qa full: 2/2\n" if last_line else "")
