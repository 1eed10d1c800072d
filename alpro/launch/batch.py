"""`launch.scheduler: slurm`: runs a command as a Slurm job, as if it ran here.

The job is a batch script that starts `alpro launch` again, in its allocation (alpro.launch.slurm). This process prints the
job's log, waits, and ends with its result. When this process ends, however that happens, the job is cancelled. A job that is
preempted, loses a node or reaches its time limit is queued again and resumes from its last snapshot.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from alpro.config import Launch
from alpro.errors import LaunchError
from alpro.files.state import state_folder
from alpro.terminal import console, logs

log = logs.get(__name__)
POLL_S = 0.5  # of the log
ASK_S = 2.0  # between questions to Slurm
SILENT_S = 600.0  # Slurm's controller may restart meanwhile
LAST_S = 5.0  # for the last lines of a log on a network file system
NOTICE_S = 120  # before the time limit: for a graceful stop with a snapshot
WAIT_S = 60  # a script that has queued itself again waits for its end
GUARD = 'read line; exec scancel --quiet "$0"'  # its input ends with this process

STATE = re.compile(r"\bJobState=(\w+)")
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "NODE_FAIL", "PREEMPTED")
REMEDIES = {
    "TIMEOUT": "it could not stop in time; set a longer launch.slurm.time, and run the same command again to resume",
    "OUT_OF_MEMORY": "set smaller batches, or ask for more memory per node",
    "CANCELLED": "somebody cancelled it; run the same command again to resume from the last saved state",
}

SCRIPT = """\
#!/bin/sh
cd {folder} || exit
{command} &
child=$!
trap 'late=1; kill -TERM "$child"' USR1
trap 'kill -TERM "$child"' TERM
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
if [ -n "$late" ] && [ "$code" -ne 0 ]; then
  echo "alpro launch: job $SLURM_JOB_ID is near its time limit; it is queued again and resumes from its last snapshot"
  scontrol requeue "$SLURM_JOB_ID" && sleep {wait}
fi
exit "$code"
"""


def is_needed(settings: Launch) -> bool:
    """Return True if the command must be submitted: Slurm is the scheduler, and this is not already a job."""
    return settings.scheduler == "slurm" and "SLURM_JOB_ID" not in os.environ


def run(settings: Launch, params: str | os.PathLike[str], command: list[str]) -> int:
    """Run `alpro launch` with a command as a job; return 0. Raises LaunchError if Slurm refuses the job or it fails."""
    folder = state_folder().absolute() / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "alpro", "launch", "--params", os.path.abspath(params), "--", *command]
    script = SCRIPT.format(folder=shlex.quote(os.getcwd()), command=shlex.join(words), wait=WAIT_S)
    name = "alpro-" + "-".join(word for word in command[:2] if word.isalnum())
    job = submit([*options(settings), f"--job-name={name}", f"--output={folder}/%j.log"], script)
    log.info("alpro launch: submitted job %s to Slurm; its log is %s", job, folder / f"{job}.log")
    return Job(job, folder / f"{job}.log").wait()


def options(settings: Launch) -> list[str]:
    """Return the options of `sbatch` for `launch.slurm`."""
    slurm = settings.slurm
    per_node = slurm.gpus_per_node or math.ceil((settings.processes or slurm.nodes) / slurm.nodes)
    given = {
        "partition": slurm.partition, "time": slurm.time, "account": slurm.account, "constraint": slurm.constraint,
        "gpus-per-node": slurm.gpus_per_node,
    }  # fmt: skip
    return [
        "--requeue", "--open-mode=append", f"--signal=B:USR1@{NOTICE_S}", f"--nodes={slurm.nodes}",
        f"--ntasks-per-node={per_node}", f"--cpus-per-task={settings.threads}",
        *(f"--{name}={value}" for name, value in given.items() if value is not None),
    ]  # fmt: skip


def submit(words: list[str], script: str) -> str:
    """Submit a batch script; return the id of the job. Raises LaunchError if that fails."""
    try:
        done = subprocess.run(["sbatch", "--parsable", *words], input=script, capture_output=True, text=True)
    except OSError as error:
        raise LaunchError(f"launch.scheduler=slurm: sbatch cannot be run here ({error}); run this on a host of the cluster") from None
    if done.returncode:
        said = " ".join(done.stderr.split()).removeprefix("sbatch: error: ")
        raise LaunchError(f"Slurm refuses the job: {said}; see launch.slurm, and `sinfo` for partitions and nodes")
    return done.stdout.strip().split(";")[0]


class Job:
    """A submitted job."""

    def __init__(self, number: str, log_file: Path) -> None:
        self.number, self.log_file = number, log_file
        self.position = 0  # in the log
        self.state = ""
        self.stopping = ""  # why this process was asked to stop
        # in a session of its own, so that it outlives whatever ends this process
        self.guard = subprocess.Popen(["sh", "-c", GUARD, number], stdin=subprocess.PIPE, start_new_session=True)

    def wait(self) -> int:
        """Print the job's log until it ends; return 0. Raises LaunchError if it fails or this process is asked to stop."""
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            while self._ask() not in FINAL:
                if self.stopping:
                    subprocess.run(["scancel", "--quiet", self.number], check=False)
                until_s = time.monotonic() + ASK_S
                while time.monotonic() < until_s and not self.stopping:
                    self._print_log()
                    time.sleep(POLL_S)
            until_s = time.monotonic() + LAST_S
            while self._print_log() or time.monotonic() < until_s:
                time.sleep(POLL_S)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.guard.communicate()
        if self.stopping:
            raise LaunchError(self.stopping)
        if self.state != "COMPLETED":
            raise LaunchError(f"job {self.number} of Slurm ended as {self.state}; {REMEDIES.get(self.state, 'its log is above')}")
        return 0

    def _on_signal(self, number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        self.stopping = f"stopped by {name}; run the same command again to resume from the last saved state"

    def _ask(self) -> str:
        """Return the state of the job; report a change. Raises LaunchError if Slurm does not answer for SILENT_S."""
        began_s = time.monotonic()
        while True:
            command = ["scontrol", "--oneliner", "show", "job", self.number]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0 and (found := STATE.search(done.stdout)):
                break
            if time.monotonic() - began_s > SILENT_S:
                said = " ".join(done.stderr.split())
                raise LaunchError(f"Slurm does not tell the state of job {self.number} ({said}); see `squeue` and `sacct`")
            time.sleep(ASK_S)
        if found[1] != self.state:
            self.state = found[1]
            log.info("alpro launch: job %s is %s", self.number, self.state)
        return self.state

    def _print_log(self) -> bool:
        """Print what has been added to the log; return True if there was something."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(self.position)
                added = file.read()
        except OSError:
            return False
        self.position += len(added)
        console.say(added.decode(errors="replace"), sys.stdout, end="")
        return bool(added)
