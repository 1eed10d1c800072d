"""Inside a Slurm job of `launch.scheduler: slurm`: on Slurm's warning the training is saved and the job requeues itself.

Slurm sends the warning some time before the job's time limit, and before a preemption if the cluster has
`PreemptParameters=send_user_signal`. An evaluation cannot be resumed and continues until it ends or Slurm ends it. A job that
loses a node other than its first requeues itself, too: Slurm would notice the loss minutes later.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

from alpro.errors import LaunchError
from alpro.launch import heartbeat, slurm_commands
from alpro.terminal import console

SUBMITTED = "ALPRO_SLURM_JOB"  # set by alpro.launch.sbatch
WARNING = signal.SIGUSR1
END_S = 120.0  # for Slurm to end a job that it requeues

warned = threading.Event()


def is_submitted() -> bool:
    """Return True if this process is the first one of such a job."""
    return SUBMITTED in os.environ and "SLURM_JOB_ID" in os.environ


def heed_warning() -> None:
    """Note Slurm's warning; a training in this process stops after its step. The supervisor stops those of ranks."""

    def note(number: int, frame: Any) -> None:
        warned.set()
        heartbeat.ask_to_stop()

    if restarts := os.environ.get("SLURM_RESTART_COUNT"):
        console.say(f"alpro launch: Slurm job {os.environ['SLURM_JOB_ID']} starts again, restart {restarts}", sys.stderr)
    signal.signal(WARNING, note)


def requeue(reason: str) -> None:
    """Put this job back into the queue, and wait for Slurm to end it. `reason` is printed.

    Returns if Slurm has cancelled or requeued it already. Raises LaunchError if Slurm refuses it.
    """
    number = os.environ["SLURM_JOB_ID"]
    job = slurm_commands.job(number)
    if job is None or job.state != "RUNNING":
        return
    console.say(f"alpro launch: {reason}; Slurm job {number} is requeued to continue", sys.stderr)
    try:
        slurm_commands.run("scontrol", "requeue", number)
    except LaunchError as error:
        raise LaunchError(f"{error}; run the same command again to resume the training") from None
    time.sleep(END_S)
