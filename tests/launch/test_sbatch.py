"""With `launch.scheduler: slurm` a command is a job of its own; tried with programs that stand in for Slurm's.

tests/launch/test_slurm_jobs.py has the same with a real Slurm.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from alpro.config import Params, load
from alpro.config.slurm import seconds
from alpro.errors import ConfigError, LaunchError
from alpro.launch import job_guard, sbatch, slurm_commands, slurm_job
from alpro.launch.job_log import JobLog
from alpro.launch.slurm_commands import Job
from tests.launch import fake_slurm

ROOT = Path(__file__).parents[2]
TINY = ROOT / "recipes/tiny.yaml"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with what a job gets and leaves; the working directory is beside it."""
    monkeypatch.setenv("PATH", str(fake_slurm.make(tmp_path / "slurm")), prepend=":")
    monkeypatch.setattr(sbatch, "POLL_S", 0.05)
    monkeypatch.setattr(sbatch, "ASK_S", (0.1, 0.1))
    monkeypatch.setattr("alpro.launch.job_log.SETTLE_S", 0.1)
    for name in ("SLURM_JOB_ID", "ALPRO_STATE", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    yield tmp_path / "slurm"


def settings(*changes: str) -> Params:
    return load(TINY, ["launch.scheduler=slurm", *(f"launch.{change}" for change in changes)])


def script_says(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sbatch, "_script", lambda *_: f"#!/bin/sh\n{text}\n")


def test_a_job_gets_what_the_parameters_ask_for_and_the_names_of_variables_only(
    slurm: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret, with = and spaces")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("DVC_STAGE", "finetune@msvd_qa")
    script_says(monkeypatch, "echo a line; echo an error >&2")
    asked = "slurm={partition: gpu, time: '24:00:00', nodes: 2, gpus_per_node: 4, account: me, constraint: 'a100&ib'}"
    sbatch.run_job(settings(asked, "threads=3"), Path("params.yaml"), ["train", "finetune"])
    options = (slurm / "options").read_text().splitlines()
    for option in (
        "--wait", "--requeue", "--partition=gpu", "--time=24:00:00", "--nodes=2", "--gpus-per-node=4", "--account=me",
        "--constraint=a100&ib", "--ntasks-per-node=4", "--cpus-per-task=3", "--signal=B:USR1@120", "--open-mode=append",
        f"--chdir={os.getcwd()}",
    ):  # fmt: skip
        assert option in options
    (exported,) = (option for option in options if option.startswith("--export="))
    names = exported.removeprefix("--export=").split(",")
    assert {"PATH", "HOME", "MLFLOW_TRACKING_PASSWORD", "ALPRO_SLURM_JOB", "DVC_STAGE"} <= set(names)
    assert not {"PREFECT_API_AUTH_STRING", "CUDA_VISIBLE_DEVICES"} & set(names)
    assert "secret" not in (slurm / "options").read_text()
    (name,) = (option for option in options if option.startswith("--job-name="))
    assert name.startswith("--job-name=alpro-finetune@msvd_qa-")
    output, errors = capfd.readouterr()
    assert output == "a line\n" and "an error\n" in errors
    assert os.listdir(".state/slurm") == []


def test_the_job_runs_the_same_command_inside_its_allocation() -> None:
    script = sbatch._script(Path("my params.yaml"), ["train", "prompter", "--init=a b"])
    launch = f"exec {sys.executable} -m alpro launch --params 'my params.yaml' -- train prompter '--init=a b'"
    assert script.splitlines() == ["#!/bin/sh", "trap '' USR1", launch]


@pytest.mark.parametrize(
    ("changes", "tasks"),
    [
        ([], 2), (["slurm.nodes=3"], 1), (["processes=5", "slurm.nodes=2"], 3), (["slurm.gpus_per_node=8", "slurm.nodes=2"], 8),
        (["processes=1"], 1), (["processes=4", "slurm.gpus_per_node=8"], 4),
    ],
)  # fmt: skip
def test_nodes_get_a_task_for_each_process(changes: list[str], tasks: int) -> None:
    assert f"--ntasks-per-node={tasks}" in sbatch.options(settings(*changes), "x", Path("y"))


def test_a_short_time_limit_has_a_shorter_warning() -> None:
    assert "--signal=B:USR1@60" in sbatch.options(settings("slurm.time='5'"), "x", Path("y"))


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("24:00:00", 86400),
        ("2-0", 172800),
        ("1-12:30", 131400),
        ("0-0:0:30", None),
        ("1:2:3:4", None),
    ],
)
def test_times_are_read_as_slurm_reads_them(time: str, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="is not a time limit of Slurm"):
            settings(f"slurm.time='{time}'")
    else:
        assert seconds(time) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("slurm.partition='a b'", "is not a name of Slurm"),
        ("slurm.account='-x'", "is not a name of Slurm"),
        ("slurm.constraint='a b'", "is not a constraint of Slurm"),
        ("slurm.time=86400", "write '24:00:00'"),
        ("slurm.queue=gpu", "no such parameter"),
        ("hosts='a:2'", "Slurm chooses the hosts of a job"),
        ("slurm.nodes=3", "launch.slurm.nodes is 3, but launch.processes is 2"),
        ("slurm.gpus_per_node=1", r"launch.processes is 2, but launch.slurm asks for 1 x 1 GPUs"),
        ("scheduler=pbs", "scheduler"),
    ],
)
def test_contradictions_are_refused_before_a_job_is_submitted(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings("processes=2", change)


def test_inside_an_allocation_nothing_is_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert sbatch.is_wanted(settings().launch)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert not sbatch.is_wanted(settings().launch)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (None, "Slurm job 7 on n1 failed: rank 1 failed: ValueError"),
        ("TIMEOUT", r"Slurm job 7 ran out of time; raise launch.slurm.time=10:00:00"),
        ("NODE_FAIL", r"Slurm job 7 lost a node \(n1\); `sinfo --list-reasons`"),
        ("OUT_OF_MEMORY", "ran out of memory; ask for more with SBATCH_MEM_PER_NODE"),
        ("CANCELLED", "was cancelled by scancel"),
    ],
)
def test_a_job_that_fails_is_one_line(slurm: Path, monkeypatch: pytest.MonkeyPatch, end: str | None, message: str) -> None:
    script_says(monkeypatch, "echo 'alpro: rank 1 failed: ValueError' >&2; exit 1")
    if end:
        (slurm / "end").write_text(f"JobState={end} Reason=x NodeList=n1 ExitCode=0:0\n")
    with pytest.raises(LaunchError, match=message) as caught:
        sbatch.run_job(settings("slurm.time='10:00:00'"), Path("params.yaml"), ["train"])
    assert "\n" not in str(caught.value)


def test_an_unknown_partition_names_the_parameter(slurm: Path) -> None:
    with pytest.raises(
        LaunchError, match=r"Slurm refuses the job \(.*Invalid partition name.*\); change launch.slurm.partition"
    ):
        sbatch.run_job(settings("slurm.partition=nosuch"), Path("params.yaml"), ["train"])
    assert os.listdir(".state/slurm") == []


def test_a_job_that_would_wait_for_ever_is_cancelled(slurm: Path) -> None:
    (slurm / "keep").touch()
    (slurm / "state").write_text("JobState=PENDING Reason=PartitionTimeLimit NodeList=(null) ExitCode=0:0\n")
    with pytest.raises(LaunchError, match=r"would wait for ever \(PartitionTimeLimit\), .* change launch.slurm.time"):
        sbatch.run_job(settings("slurm.time='9-0'"), Path("params.yaml"), ["train"])
    assert (slurm / "cancelled").read_text() == "7\n"


def test_without_slurm_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"sbatch is not installed here; .*set launch.scheduler=null"):
        sbatch.run_job(settings(), Path("params.yaml"), ["train"])


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination",
            "launch.slurm.account,",
        ),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            "launch.slurm.nodes, gpus",
        ),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", "controller up"),
        ("sbatch: error: Batch job submission failed: something new", "^sbatch: Batch job submission failed: something new$"),
    ],
)
def test_refusals_name_the_parameter(said: str, meaning: str) -> None:
    import re

    assert re.search(meaning, slurm_commands.refusal("sbatch", said))


def test_an_end_by_a_signal_is_described() -> None:
    job = Job("7", "FAILED", "None", "n1", 0, 9, 0)
    assert slurm_commands.describe_end(job, None).startswith("was ended by signal 9 on n1")


def test_the_log_of_a_job_is_printed_in_whole_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = JobLog(tmp_path)
    assert not log.copy()
    log.stdout.write_bytes(b"one\ntw")
    log.copy()
    assert capfd.readouterr().out == "one\n"
    with log.stdout.open("ab") as file:
        file.write(b"o\xff\n")
    log.stderr.write_text("alpro: a fault")
    log.copy()
    assert capfd.readouterr() == ("two\ufffd\n", "")
    log.copy(rest=True)
    assert capfd.readouterr() == ("", "alpro: a fault\n") and log.last_error == "a fault"


SUBMIT = """
import sys
from pathlib import Path
from alpro.config import load
from alpro.errors import LaunchError
from alpro.launch import sbatch
sbatch.POLL_S, sbatch.ASK_S = 0.05, (0.1, 0.1)
try:
    sbatch.run_job(load(sys.argv[1], ["launch.scheduler=slurm"]), Path("params.yaml"), ["train"])
except LaunchError as error:
    sys.exit(f"alpro: {error}")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_is_cancelled_when_its_submitter_is_stopped_or_killed(slurm: Path, number: signal.Signals) -> None:
    (slurm / "keep").touch()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SUBMIT, str(TINY)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as submitter:
        assert submitter.stderr is not None
        assert any("Slurm job 7 runs on n1" in line for line in submitter.stderr)
        submitter.send_signal(number)
        errors = submitter.stderr.read()
    until_s = time.monotonic() + 10
    while not (slurm / "cancelled").exists():
        assert time.monotonic() < until_s
        time.sleep(0.05)
    cancelled = (slurm / "cancelled").read_text()
    if number == signal.SIGTERM:
        assert cancelled == "--batch --signal=TERM 7\n"
        assert "alpro: stopped by SIGTERM; Slurm job 7 is cancelled; run the same command again to resume" in errors
    else:
        assert "--name=alpro-train-" in cancelled


def test_a_job_whose_submitter_and_guard_died_is_cancelled_by_the_next(
    slurm: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (slurm / "name").write_text("alpro-old-1\n")
    for host, name in ((socket.gethostname(), "old-1"), ("elsewhere", "old-2")):
        Path(f".state/slurm/alpro-{name}").mkdir(parents=True)
        Path(f".state/slurm/alpro-{name}.lock").write_text(f"process 7 on {host}, since 2026-01-01 00:00:00\n")
    script_says(monkeypatch, "true")
    sbatch.run_job(settings(), Path("params.yaml"), ["train"])
    assert (slurm / "cancelled").read_text() == "7\n"
    assert not Path(".state/slurm/alpro-old-1").exists()
    assert Path(".state/slurm/alpro-old-2").exists(), "its submitter may still run on that host"


def test_the_guard_does_nothing_after_the_end_of_the_job(slurm: Path) -> None:
    subprocess.run([sys.executable, "-I", job_guard.__file__, "x"], input="ended\n", text=True, check=True, timeout=20)
    assert not (slurm / "cancelled").exists()


def test_a_saved_job_requeues_itself_unless_slurm_has_ended_it(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm_job, "END_S", 0.0)
    (slurm / "state").write_text("JobState=CANCELLED Reason=None NodeList=n1 ExitCode=0:15\n")
    slurm_job.requeue("saved")
    assert "requeue" not in (slurm / "scontrol-log").read_text()
    (slurm / "state").write_text("JobState=RUNNING Reason=None NodeList=n1 ExitCode=0:0\n")
    slurm_job.requeue("saved")
    assert (slurm / "scontrol-log").read_text().splitlines()[-1] == "requeue 7"
