"""The launcher reports a failing rank with its own message, and all processes end if one is killed."""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from alpro.cli.main import app
from alpro.config import Launch
from alpro.errors import LaunchError
from alpro.launch import command as commands
from alpro.launch import heartbeat, run
from alpro.launch import supervisor as supervision
from alpro.launch.diagnosis import Rank
from alpro.launch.supervisor import Supervisor
from alpro.system import parent
from tests.training.processes import ROOT, both_backends, done, ended, first_failure, world

WORKER = ["-m", "tests.launch.workers"]


@contextmanager
def under_way(behaviour: str, backend: str) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """Start a world of two; yield the launcher and all processes below it once the ranks make steps."""
    process = world(2, [*WORKER, behaviour], backend=backend)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "well under way" in line:
                break
        yield process, psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_horovodrun_gets_all_options_from_the_parameters() -> None:
    settings = Launch(processes=8, hosts="one:4,two:4", threads=3, start_timeout_s=60)
    try:
        command = commands.world_command(settings, ["python", "-m", "alpro", "train"])
    except LaunchError:
        pytest.skip("Horovod is not installed here (`make setup` builds it)")
    text = " ".join(command)
    assert command[:3] == [sys.executable, "-m", "alpro.launch.horovodrun"]
    assert "-np 8 --gloo-timeout-seconds 60 -H one:4,two:4 python -m alpro train" in text
    environment = commands.starter_environment(settings)
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert environment["HOROVOD_FUSION_THRESHOLD"] == "0"


def test_without_horovod_a_larger_world_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LaunchError, match="needs Horovod, which is not installed") as refused:
        run.run_world(Launch(processes=2), ["true"])
    assert "\n" not in str(refused.value)


def test_world_of_one_runs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, ["launch", "--params", "recipes/tiny.yaml", "--", "recipe", "list"])
    assert result.exit_code == 0 and "tiny" in result.output


def test_this_machine_is_reached_over_loopback() -> None:
    assert commands.own_address(None) == commands.own_address("localhost:1,127.0.0.1:2") == "127.0.0.1"
    with pytest.raises(LaunchError, match=r"launch.hosts: 'no-such-host.invalid'"):
        commands.own_address("no-such-host.invalid:4")


@both_backends
def test_output_is_streamed_and_success_gives_exit_code_0(backend: str) -> None:
    lines = done(world(2, [*WORKER, "well"], backend=backend)).splitlines()
    assert lines[0].startswith("alpro launch: ") and f"alpro.launch.{backend}run" in lines[0]
    assert "ended at step 20" in lines and "rank 1: ended at step 20" in lines
    assert not any("/20" in line or "\x1b" in line for line in lines), "a log has no bar"


@both_backends
@pytest.mark.slow
def test_terminal_shows_a_progress_bar_below_the_ranks_output(backend: str) -> None:
    terminal, output = pty.openpty()
    process = world(2, [*WORKER, "well"], output=output, backend=backend)
    os.close(output)
    shown = b""
    with suppress(OSError):  # raised once the last writer has closed the terminal
        while piece := os.read(terminal, 4096):
            shown += piece
    os.close(terminal)
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))
    assert re.search(r"training .*[1-9]\d*/20", text)
    assert {"ended at step 20", "rank 1: ended at step 20"} <= {line.strip() for line in re.split(r"[\r\n]+", text)}


@both_backends
@pytest.mark.slow  # on a busy machine five seconds are too few
def test_launcher_killed_with_kill_9_leaves_no_process_after_5_s(backend: str) -> None:
    with under_way("for ever", backend) as (process, family):
        assert len(family) >= 3  # the starter, two ranks, and with Horovod the processes between them
        process.kill()
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive


@both_backends
@pytest.mark.slow
def test_starter_killed_with_kill_9_is_reported_and_leaves_no_process(backend: str) -> None:
    with under_way("for ever", backend) as (process, family):
        family[0].kill()
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive
        assert process.wait(20) == 1


@both_backends
@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["stoppable", "late", "for ever"])
def test_signal_is_forwarded_and_ranks_stop_gracefully(behaviour: str, backend: str) -> None:
    with under_way(behaviour, backend) as (process, family):
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive and process.returncode == 1
        assert "stopped by SIGTERM" in output
        assert ("rank 1: ended at step" in output) == (behaviour != "for ever")


@both_backends
@pytest.mark.slow
def test_second_signal_does_not_wait_for_the_ranks(backend: str) -> None:
    with under_way("deaf", backend) as (process, family):
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 1
        _, alive = psutil.wait_procs(family, timeout=5)
        assert not alive


def world_whose_rank_1_fails(tmp_path: Path, behaviour: str, message: str, backend: str) -> tuple[str, str]:
    """Run a world whose rank 1 fails; check that it is reported with this message. Returns output and errors."""
    process = world(2, [*WORKER, behaviour, str(tmp_path / "fault")], stderr=subprocess.PIPE, backend=backend)
    output, errors = ended(process, tmp_path / "fault")
    assert message in next(line for line in errors.splitlines() if line.startswith("alpro launch: rank 1"))
    last = output.splitlines()[-1]
    assert last.startswith("LaunchError: rank 1") and message in last
    return output, errors


@both_backends
@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("raises", "failed: ValueError: an unexpected fault"),
        ("exits", "failed: a fault that the package reports"),
        ("dies", "ended without an error message"),
    ],
)
def test_failing_rank_is_reported_first_and_ends_the_others_within_30_s(
    tmp_path: Path, behaviour: str, message: str, backend: str
) -> None:
    output, errors = world_whose_rank_1_fails(tmp_path, behaviour, message, backend)
    first = first_failure(errors)
    assert first.startswith(("alpro launch: rank 1", "rank 1: ")) and message.removeprefix("failed: ") in first
    assert "LostRankError" not in output + errors


@both_backends
@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["crashes", "aborts"])
def test_crash_in_native_code_is_reported_with_its_message_or_signal(tmp_path: Path, behaviour: str, backend: str) -> None:
    messages = {
        "crashes": "crashed in native code (SIGSEGV) without a message",
        # torch turns Gloo's message into an exception
        "aborts": "failed: in native code (Horovod, Gloo or torch): ifa != nullptr. Unable to find address for: nosuch0"
        if backend == "horovod"
        else "GLOO_SOCKET_IFNAME: Gloo cannot use the network interface 'nosuch0' of this host",
    }
    world_whose_rank_1_fails(tmp_path, behaviour, messages[behaviour], backend)


def test_gloo_errors_about_a_lost_rank_come_after_the_cause(capsys: pytest.CaptureFixture[str]) -> None:
    supervisor = Supervisor(Launch(processes=2), ["sleep", "60"], dict(os.environ))
    try:
        supervisor._print_line(
            "stderr", "[0]<stderr>:[2026-11-28 14:32:15.500011: E /x/gloo/gloo/transport/tcp/pair.cc:589] Read error\n"
        )
        supervisor._print_line("stderr", "[0]<stderr>:a line of its own\n")
        assert capsys.readouterr().err == "a line of its own\n"
        assert "Read error" in str(supervisor._diagnose(None, "the starter ended with exit code 1"))
    finally:
        supervisor._shut_down()


def test_progress_bar_counts_training_steps_and_validation_units() -> None:
    supervisor = Supervisor(Launch(processes=2), ["sleep", "60"], dict(os.environ))
    moves: list[tuple[str, int, int]] = []
    supervisor.bar.update = lambda *move: moves.append(move)  # type: ignore[method-assign,assignment]
    try:
        for what, step, total in (("reading", 3, 10), ("exchange", 3, 10), ("saving", None, None), ("validation", 1, 4)):
            beat = {"event": "beat", "count": 1, "what": what, "step": step, "total": total}
            supervisor._handle_message(supervisor.ranks[0], beat)
        supervisor._handle_message(supervisor.ranks[1], beat)
    finally:
        supervisor._shut_down()
    assert moves == [("training", 3, 10), ("training", 3, 10), ("validation", 1, 4)]


def test_many_heartbeats_are_sent_as_a_few_and_the_newest_always_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor(Launch(processes=2), ["sleep", "60"], dict(os.environ))
    host, port = supervisor.listener.address
    lost = threading.Event()
    monkeypatch.setattr(heartbeat, "exit_orphaned", lost.set)
    monkeypatch.setattr(heartbeat, "_link", heartbeat._Link(f"{host}:{port}:{supervisor.secret}", 1))
    messages: list[str] = []
    update = Rank.update
    monkeypatch.setattr(Rank, "update", lambda rank, message: update(rank, message) or messages.append(message["event"]))
    try:
        for step in range(1000):
            heartbeat.beat("computing", step)
        until_s = time.monotonic() + 20
        while supervisor.ranks[1].beats < 1000 and time.monotonic() < until_s:
            supervisor._handle_next(timeout=0.1)
        assert supervisor.ranks[1].position == "computing of step 999"
        assert messages.count("beat") < 100
    finally:
        supervisor._shut_down()
        assert lost.wait(20)  # before the true `exit_orphaned` is there again, which would end the tests


@pytest.mark.parametrize("command", ["echo '[0]<stdout>:said'", "(sleep 0.5; echo '[0]<stdout>:said') &"])
def test_run_ends_once_its_output_has_ended(
    monkeypatch: pytest.MonkeyPatch, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervision, "LATE_OUTPUT_S", 100.0)
    supervisor = Supervisor(Launch(processes=2), ["sh", "-c", command], dict(os.environ))
    began_s = time.monotonic()
    assert supervisor.wait() == 0
    assert time.monotonic() - began_s < 50
    assert capsys.readouterr().out == "said\n"


@both_backends
@pytest.mark.slow
def test_stalled_rank_is_reported_with_the_place(backend: str) -> None:
    process = world(2, [*WORKER, "stalls"], stall_timeout_s=10, backend=backend)
    last = process.communicate(timeout=900)[0].splitlines()[-1]
    assert process.returncode == 1 and "rank 1" in last and "stalled at computing of step 20" in last


@both_backends
@pytest.mark.slow
def test_ranks_that_do_not_start_are_reported(backend: str) -> None:
    process = world(2, ["-c", "import time; time.sleep(100)"], start_timeout_s=8, backend=backend)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "rank 0, rank 1 did not join the others within launch.start_timeout_s=8 s" in output


@pytest.mark.slow
def test_lost_host_is_reported_and_both_sides_end_within_30_s() -> None:
    apart = ["unshare", "--net"]
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))) or subprocess.run([*apart, "true"]).returncode:
        pytest.skip("needs the right to make network namespaces, and iproute2")
    command = [*apart, sys.executable, "-m", "tests.launch.far_host"]
    output = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=300, check=True).stdout
    print(output)
    assert "rank 0" in output and "cannot be reached" in output
    given_up_s, gave_up_s = (float(seconds) for seconds in re.findall(r"after ([\d.]+) s", output))
    assert given_up_s < 30 and gave_up_s < 30 and f"the rank ended with {parent.ORPHANED}" in output
