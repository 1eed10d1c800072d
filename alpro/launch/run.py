"""Runs a command on the processes and hosts of `launch` in params.yaml."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from alpro.config import Launch
from alpro.launch.command import starter_environment, thread_variables, world_command
from alpro.launch.supervisor import Supervisor
from alpro.terminal import logs

log = logs.get(__name__)


def in_this_process(settings: Launch) -> bool:
    """True if a world of this size needs no further process."""
    return settings.world_size == 1 and settings.min_processes is None


def set_threads(threads: int) -> None:
    """Set the number of CPU threads of this process, also if torch is already imported."""
    os.environ.update(thread_variables(threads))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def run_world(settings: Launch, command: list[str], params: Path | None = None) -> int:
    """Run a command on the processes of a supervised world; return 0. `params` is the parameter file, for hosts that join.

    Raises LaunchError, naming the rank and the cause, if a rank fails, is lost, stalls or does not start.
    """
    if settings.min_processes is not None:
        from alpro.launch import elastic

        return elastic.run_world(settings, command, params)
    full_command = world_command(settings, command)
    log.info("alpro launch: %s", shlex.join(full_command))
    log.debug("start time-out %g s, stall time-out %g s", settings.start_timeout_s, settings.stall_timeout_s)
    return Supervisor(settings, full_command, starter_environment(settings)).wait()
