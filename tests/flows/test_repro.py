"""`make repro`: one line per stage, the table of seconds, failures and interruptions."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from flows import dvc_session, repro
from flows.stage_lines import StageLines

REPOSITORY = Path(__file__).parents[2]
STAGES = ["pretrain", "finetune@a", "report"]


class Screen(io.StringIO):
    """A terminal, if asked for."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(screen: Screen) -> list[str]:
    """Return the lines with single spaces."""
    return [" ".join(line.split()) for line in screen.getvalue().splitlines()]


def test_each_stage_has_one_line_with_number_seconds_and_expected_seconds() -> None:
    screen, clock = Screen(), Clock()
    lines = StageLines(screen, STAGES, {STAGES[0]: 8.5}, clock)
    lines.line("Running stage 'pretrain':")
    lines.line("> python -m alpro")
    clock.now = 9.0
    lines.line("Stage 'finetune@a' is cached - skipping run, checking out outputs")
    clock.now = 9.5
    lines.line("Stage 'report' didn't change, skipping")
    lines.finish()
    assert shown(screen) == [
        "stage seconds expected",
        "1/3 pretrain 9.0 8.5",
        "2/3 finetune@a 0.5 - restored",
        "3/3 report - - unchanged",
    ]
    screen.truncate(0)
    screen.seek(0)
    lines.table(10.0)
    assert shown(screen) == [
        "",
        "seconds per stage seconds share",
        "pretrain 9.0 90 %",
        "finetune@a 0.5 5 %",
        "checks, MLflow and the rest 0.5 5 %",
        "total 10.0 100 %",
    ]


def test_running_stage_is_updated_on_a_terminal_and_mentioned_once_a_minute_in_a_pipe() -> None:
    for terminal, expected in ((True, 130), (False, 2)):
        screen, clock = Screen(terminal), Clock()
        lines = StageLines(screen, STAGES, {}, clock)
        lines.line("Running stage 'pretrain':")
        for clock.now in range(1, 131):
            lines.tick()
        assert screen.getvalue().count("pretrain") == expected
        assert all(len(line) <= 80 for line in screen.getvalue().replace("\r\x1b[K", "\n").splitlines())


@pytest.fixture
def project(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small repository, whose parameters are not those of `alpro`."""
    monkeypatch.setattr(repro, "_preflight", lambda root: yaml.safe_load((root / "params.yaml").read_text())["recipe"])
    monkeypatch.setattr(repro, "_show_results", lambda root: None)
    return scratch


def test_run_shows_stages_and_logs_the_rest(project: Path) -> None:
    first, second = Screen(), Screen()
    repro.run(project, first, "")
    assert [line.split()[0] for line in shown(first)[3:9]] == [f"{number}/6" for number in range(1, 7)]
    assert first.getvalue().count("evaluate@") == 4, "a line and a row of the table for each evaluation"
    assert "the loss is" not in first.getvalue()
    assert "the loss is 0.1" in (project / repro.LOG).read_text()
    assert (project / ".make/verbs").read_text() == "track sync\n"
    repro.run(project, second, "")
    assert "all 6 stages are up to date" in second.getvalue()
    assert second.getvalue().count("unchanged") == 6
    assert (project / ".make/verbs").read_text() == "track sync\n", "MLflow is not asked again if nothing changed"
    durations = json.loads((project / repro.DURATIONS).read_text())["tiny"]
    assert set(durations) == {
        *("pretrain", "finetune@a", "finetune@b"),
        *("evaluate@a", "evaluate@b", "report"),
    }


def test_mlflow_is_updated_again_if_its_store_or_the_results_changed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = project / "mlflow.db"
    store.touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    states = [repro._mlflow_state(project), repro._mlflow_state(project)]
    store.write_text("a run was deleted")
    states.append(repro._mlflow_state(project))
    (project / "dvc.lock").write_text("changed")
    states.append(repro._mlflow_state(project))
    store.unlink()
    states.append(repro._mlflow_state(project))
    assert states[0] == states[1] and len(set(states)) == 4
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert repro._mlflow_state(project) is None


def test_failed_stage_shows_its_own_error(project: Path) -> None:
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("cat reports", "echo the disk is full >&2; exit 7; cat reports"))
    screen = Screen()
    with pytest.raises(repro.ReproError) as failure:
        repro.run(project, screen, "")
    assert failure.value.code == 1
    assert str(failure.value).startswith("stage report failed:\n  the disk is full\n")
    assert ".make/repro.log" in str(failure.value) and "exit 7" not in str(failure.value)
    assert shown(screen)[-1].startswith("6/6 report") and shown(screen)[-1].endswith("failed")


def test_invalid_pipeline_is_reported(project: Path) -> None:
    (project / "dvc.yaml").write_text("stages: 5\n")
    with pytest.raises(repro.ReproError, match=r"dvc\.yaml"):
        repro.run(project, Screen(), "")


def _fails_to_clear(root: Path, screen: Screen, edited: str) -> None:
    repro._output_of([sys.executable, "-c", "raise SystemExit('the lock is held')"], root)


def _full_disk(root: Path, screen: Screen, edited: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), ".make/repro.log")


def _killed_session(root: Path, screen: Screen, edited: str) -> None:
    with (root / "log").open("w") as log:
        session = repro.Session(root, log)
        session._child.kill()
        session._child.wait()
        session.reproduce()


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (_fails_to_clear, "failed: the lock is held"),
        (_full_disk, "No space left on device: '.make/repro.log'; once this is repaired, run `make repro` again"),
        (_killed_session, "DVC was ended from outside (exit code -9); run `make repro` again to continue"),
    ],
)
def test_failures_outside_the_stages_are_one_line(
    run: Callable[[Path, Screen, str], None],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(repro, "run", run)
    assert repro.main() == 1
    shown = capsys.readouterr().err
    assert message in shown and len(shown.splitlines()) == 1


def test_unreadable_pipeline_is_reported_by_the_session(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreadable(targets: Sequence[str]) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "dvc.lock")

    monkeypatch.setattr(dvc_session, "describe", unreadable)
    assert dvc_session.main(["report"]) == 1
    assert json.loads(capsys.readouterr().out) == {"error": "[Errno 13] Permission denied: 'dvc.lock'"}


def test_interruption_ends_the_run_with_code_130(project: Path) -> None:
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("cat reports", "echo up; sleep 300; cat reports"))
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from flows import repro;"
        "repro._preflight = lambda root: 'tiny'; sys.exit(repro.main())"
    )
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", code], cwd=project, text=True, stderr=subprocess.PIPE, start_new_session=True
    )
    log = project / repro.LOG
    end = time.monotonic() + 60
    while not log.exists() or "\nup\n" not in log.read_text():
        assert time.monotonic() < end and child.poll() is None
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert errors == "repro: interrupted in stage report; run `make repro` again to continue\n"
