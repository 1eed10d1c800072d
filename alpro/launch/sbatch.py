"""`launch.scheduler: slurm`: runs `alpro launch` as a Slurm job of its own, and prints what the job prints.

The job is submitted by `sbatch --wait` and starts the same `alpro launch` inside its allocation. It is cancelled when this
process is interrupted or killed. If Slurm requeues it, after a preemption or when a node dies, the training resumes from its
last saved state. Shortly before its time limit the job saves its state and requeues itself (alpro.launch.slurm_job).
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alpro.config import Launch, Params
from alpro.config.slurm import seconds
from alpro.errors import LaunchError
from alpro.files.locks import Lock, LockHeld
from alpro.files.state import state_folder
from alpro.launch import environment, job_guard, slurm_commands, slurm_job
from alpro.launch.job_log import JobLog
from alpro.launch.slurm_commands import Job
from alpro.launch.supervisor import GRACE_S
from alpro.system import parent
from alpro.terminal import console, logs

log = logs.get(__name__)
OWN = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")  # of this machine; Slurm sets those of the node
PERSON = ("HOME", "USER", "LOGNAME", "SHELL")
POLL_S = 0.5  # of the log
ASK_S = (2.0, 10.0)  # between questions to Slurm: in the first minute, and later
QUICK_S = 3.0  # for a job to save its state after SIGTERM, as whoever sent it may not wait longer
WARNING_S = 120  # between the warning and the time limit


def is_wanted(settings: Launch) -> bool:
    """Return True if stages are jobs of their own, and this process is not in a job already."""
    return settings.scheduler == "slurm" and "SLURM_JOB_ID" not in os.environ


def run_job(params: Params, file: Path, command: list[str]) -> None:
    """Run `alpro launch -- COMMAND` as a job to its end. Raises LaunchError if it is refused, fails or is stopped."""
    folder = state_folder().absolute() / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    _end_orphans(folder)
    name = f"alpro-{_label(command)}-{secrets.token_hex(4)}"
    with Lock(folder / f"{name}.lock"):
        (folder / name).mkdir()
        try:
            _Submission(params, file, command, folder / name).run()
        finally:
            shutil.rmtree(folder / name, ignore_errors=True)


def test(params: Params, file: Path) -> str:
    """Return when and where Slurm would start a job. Raises LaunchError if it would refuse it."""
    words = [*options(params, "alpro-check", Path()), "--test-only", "--output=/dev/null"]
    done = subprocess.run(_program(words), input=_script(file, ["-"]), capture_output=True, text=True, env=_variables())
    if done.returncode:
        raise LaunchError(slurm_commands.refusal("sbatch", done.stderr))
    return done.stderr.strip().removeprefix("sbatch: ")


def options(params: Params, name: str, folder: Path) -> list[str]:
    """Return the options of sbatch. Environment variables are named, not given: other users can read command lines."""
    launch, asked = params.launch, params.launch.slurm
    limit_s = seconds(asked.time) if asked.time else None
    warning_s = WARNING_S if limit_s is None else min(WARNING_S, limit_s // 5)
    chosen = {
        "partition": asked.partition, "time": asked.time, "account": asked.account, "constraint": asked.constraint,
        "gpus-per-node": asked.gpus_per_node,
    }  # fmt: skip
    return [
        f"--job-name={name}", f"--chdir={os.getcwd()}", f"--output={folder / 'stdout'}", f"--error={folder / 'stderr'}",
        "--open-mode=append", "--requeue", f"--signal=B:{slurm_job.WARNING.name.removeprefix('SIG')}@{warning_s}",
        f"--nodes={asked.nodes}", f"--ntasks-per-node={launch.tasks_per_node}",
        f"--cpus-per-task={launch.threads + params.loader.workers}", f"--export={','.join(exported())}",
        *(f"--{option}={value}" for option, value in chosen.items() if value is not None),
    ]  # fmt: skip


def exported() -> list[str]:
    """Return the names of the environment variables that a job gets: those that ranks need."""
    names = {*environment.sent_variables(os.environ), *(name for name in PERSON if name in os.environ), slurm_job.SUBMITTED}
    return sorted(name for name in names if name not in OWN and re.fullmatch(r"\w+", name, re.ASCII))


def _variables() -> dict[str, str]:
    return {**os.environ, slurm_job.SUBMITTED: "1"}


def _program(words: list[str]) -> list[str]:
    if shutil.which("sbatch") is None:
        raise LaunchError(
            "launch.scheduler=slurm: sbatch is not installed here; start this on a login node, or set launch.scheduler=null"
        )
    return ["sbatch", *words]


def _script(file: Path, command: list[str]) -> str:
    words = [sys.executable, "-m", "alpro", "launch", "--params", str(file), "--", *command]
    return f"#!/bin/sh\ntrap '' {slurm_job.WARNING.name.removeprefix('SIG')}\nexec {shlex.join(words)}\n"


def _label(command: list[str]) -> str:
    """Return a short name of the stage or the command, of letters, digits and dashes."""
    stage = os.environ.get("DVC_STAGE") or "-".join(word for word in command[:2] if not word.startswith("-"))
    return re.sub(r"[^A-Za-z0-9@_-]", "-", stage)[-40:].strip("-") or "run"


def _end_orphans(folder: Path) -> None:
    """Cancel jobs whose submitters on this host died together with their guards, as in a power failure, and remove their logs.

    Those of other hosts are left alone: on some shared file systems a lock holds only on its own host.
    """
    for left in [path for path in folder.iterdir() if path.is_dir()]:
        file = folder / f"{left.name}.lock"
        try:
            if f" on {socket.gethostname()}, since" not in file.read_text(encoding="utf-8"):
                continue
            lock = Lock(file)
        except FileNotFoundError:
            continue  # its submitter removes the folder now
        except LockHeld:
            continue
        with lock:
            for number in slurm_commands.jobs_named(left.name):
                log.warning("alpro launch: cancelling Slurm job %s, whose submitter is gone", number)
                slurm_commands.run("scancel", number)
            shutil.rmtree(left, ignore_errors=True)


class _Submission:
    """One job, from its submission to its end."""

    def __init__(self, params: Params, file: Path, command: list[str], folder: Path) -> None:
        self.params, self.folder, self.name = params, folder, folder.name
        self.script = _script(file, command)
        self.log = JobLog(folder)
        self.number = ""
        self.job: Job | None = None
        self.signals: list[signal.Signals] = []
        self.said = ""
        self.asked_s = 0.0
        self.is_over = False  # no job is left that a guard would have to cancel

    def run(self) -> None:
        """Submit the job and wait for its end. Raises LaunchError unless it succeeds."""
        with self._guarded(), self._signals_noted(), (self.folder / "sbatch").open("w+") as output:
            began_s = time.monotonic()
            words = _program(["--wait", *options(self.params, self.name, self.folder)])
            sbatch = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, text=True, env=_variables(),
                start_new_session=True, preexec_fn=parent.die_with_parent,
            )  # fmt: skip
            assert sbatch.stdin is not None
            sbatch.stdin.write(self.script)
            sbatch.stdin.close()
            try:
                while sbatch.poll() is None or (self.job is not None and self.job.is_active):
                    self._look(ASK_S[time.monotonic() - began_s > 60])
                    if self.signals:
                        self._stop()
                    time.sleep(POLL_S)
            finally:
                sbatch.kill()
                code = sbatch.wait()
            output.seek(0)
            self._finish(code, output.read())

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Have the jobs of this name cancelled if this process is killed."""
        guard = subprocess.Popen(
            [sys.executable, "-I", job_guard.__file__, self.name], stdin=subprocess.PIPE, start_new_session=True
        )
        assert guard.stdin is not None
        try:
            yield
        finally:
            if self.is_over:
                guard.stdin.write(b"the job has ended\n")
            guard.stdin.close()
            if self.is_over:
                guard.wait()

    @contextmanager
    def _signals_noted(self) -> Iterator[None]:
        def note(number: int, frame: Any) -> None:
            self.signals.append(signal.Signals(number))

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _look(self, every_s: float) -> None:
        """Print the job's new lines, and ask Slurm for its state from time to time."""
        self.log.copy()
        if time.monotonic() - self.asked_s < every_s:
            return
        try:
            if not self.number:
                self.number = next(iter(slurm_commands.jobs_named(self.name)), "")
            if self.number:
                self.job = slurm_commands.job(self.number) or self.job
        except LaunchError as error:
            self._say(f"{error}; the job continues")
        self.asked_s = time.monotonic()
        if self.job is None:
            return
        if self.job.state == "PENDING" and self.job.reason != "None":
            again = "was requeued and " if self.job.restarts else ""
            self._say(f"Slurm job {self.number} {again}waits ({self.job.reason})")
            if parameter := slurm_commands.HOPELESS.get(self.job.reason):
                slurm_commands.run("scancel", self.number)
                self.is_over = True
                raise LaunchError(
                    f"Slurm job {self.number} would wait for ever ({self.job.reason}), so it is cancelled; change "
                    f"launch.slurm.{parameter}"
                )
        elif self.job.state == "RUNNING":
            self._say(f"Slurm job {self.number} runs on {self.job.nodes}")

    def _say(self, text: str) -> None:
        if text != self.said:
            self.said = text
            console.say(f"alpro launch: {text}", sys.stderr)

    def _stop(self) -> None:
        """Stop the job: gracefully with a saved state if there is time, then by force. Raises LaunchError."""
        first = self.signals[0]
        self._look(0)
        until_s = time.monotonic() + (GRACE_S if first == signal.SIGINT else QUICK_S)
        if self.job is not None and self.job.state == "RUNNING":
            self._say(f"{first.name}: stopping Slurm job {self.number}; a second Ctrl-C cancels it at once")
            slurm_commands.run("scancel", "--batch", "--signal=TERM", self.number)
            while time.monotonic() < until_s and len(self.signals) == 1 and self._is_active():
                time.sleep(POLL_S)
        if self._is_active():
            slurm_commands.run("scancel", f"--user={os.getuid()}", f"--name={self.name}")
        self.is_over = bool(self.number)
        self.log.copy(rest=True)
        job = f"Slurm job {self.number}" if self.number else "its Slurm job"
        raise LaunchError(
            f"stopped by {first.name}; {job} is cancelled; run the same command again to resume from the last saved state"
        )

    def _is_active(self) -> bool:
        self._look(POLL_S)
        return self.job is None or self.job.is_active

    def _finish(self, code: int, output: str) -> None:
        """Print the rest of the log. Raises LaunchError if the job did not succeed."""
        self.is_over = True
        self.number = self.number or next(iter(re.findall(r"Submitted batch job (\d+)", output)), "")
        if not self.number:
            raise LaunchError(slurm_commands.refusal("sbatch", output))
        self.job = slurm_commands.job(self.number) or self.job
        self.log.finish()
        if code == 0 or self.job is None or self.job.state == "COMPLETED":
            return
        if self.job.state == "FAILED" and self.log.last_error:
            raise LaunchError(f"Slurm job {self.number} on {self.job.nodes} failed: {self.log.last_error}")
        limit = self.params.launch.slurm.time
        raise LaunchError(f"Slurm job {self.number} {slurm_commands.describe_end(self.job, limit)}")
