"""Builds the `horovodrun` command of a world, and the environment of its processes."""

from __future__ import annotations

import math
import os
import shutil
import socket
import sys
from pathlib import Path

from alpro.config import Launch
from alpro.errors import LaunchError


def horovodrun(settings: Launch) -> list[str]:
    """Return the options that every world needs. Raises LaunchError if `horovodrun` is not installed."""
    beside_python = Path(sys.executable).with_name("horovodrun")
    program = str(beside_python) if beside_python.exists() else shutil.which("horovodrun")
    if program is None:
        raise LaunchError(
            f"a world of {settings.world_size} processes needs Horovod, which is not installed beside {sys.executable}; "
            "`make setup` builds it, or set launch.processes=1"
        )
    timeout = str(math.ceil(settings.start_timeout_s))
    # Gloo's default of 30 s is less than importing torch takes on a busy machine; the ranks that wait would abort
    return [sys.executable, program, "--gloo", "-np", str(settings.world_size), "--start-timeout", timeout,
            "--gloo-timeout-seconds", timeout]  # fmt: skip


def horovodrun_command(settings: Launch, command: list[str]) -> list[str]:
    """Return the full command of a world of more than one process. Raises LaunchError if `horovodrun` is not installed."""
    return [*horovodrun(settings), *(["-H", settings.hosts] if settings.hosts else []), *command]


def worker_environment(settings: Launch) -> dict[str, str]:
    """Return the environment of every process; `horovodrun` passes it on to other hosts."""
    return {**os.environ, **thread_variables(settings.threads), "HOROVOD_FUSION_THRESHOLD": "0"}


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment variables that set the number of CPU threads of a process."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def own_address(hosts: str | None) -> str:
    """Return the address at which processes on `hosts` reach this one: loopback if all hosts are this machine.

    Raises LaunchError if a host name cannot be resolved.
    """
    for host in (entry.rsplit(":", 1)[0] for entry in (hosts or "").split(",") if entry):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing; connect() only picks a route
                probe.connect((socket.gethostbyname(host), 9))
                address, other = probe.getsockname()[0], probe.getpeername()[0]
        except OSError as error:
            raise LaunchError(f"launch.hosts: {host!r} cannot be resolved ({error}); write `name:slots,...`") from None
        if address != other and not other.startswith("127."):
            return address
    return "127.0.0.1"
