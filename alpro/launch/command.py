"""alpro/launch/command.py: NEW MODULE."""

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
    """The beginning of a command. Raises LaunchError where `horovodrun` is missing."""
    beside = Path(sys.executable).with_name("horovodrun")
    found = str(beside) if beside.exists() else shutil.which("horovodrun")
    if found is None:
        raise LaunchError(
            f"a world of {settings.world} processes needs Horovod, which is not installed beside {sys.executable}; "
            "`make setup` builds it, or set launch.processes=1"
        )
    patience = str(math.ceil(settings.start_timeout_s))
    # Gloo's own 30 s are fewer than importing torch takes on a busy machine, and whoever waits longer for another aborts
    return [sys.executable, found, "--gloo", "-np", str(settings.world), "--start-timeout", patience,
            "--gloo-timeout-seconds", patience]  # fmt: skip


def horovodrun_command(settings: Launch, command: list[str]) -> list[str]:
    """The command of a world larger than one. Raises LaunchError where `horovodrun` is missing."""
    return [*horovodrun(settings), *(["-H", settings.hosts] if settings.hosts else []), *command]


def worker_environment(settings: Launch) -> dict[str, str]:
    """What every process finds in its environment; `horovodrun` carries it to other hosts."""
    return {**os.environ, **thread_variables(settings.threads), "HOROVOD_FUSION_THRESHOLD": "0"}


def thread_variables(threads: int) -> dict[str, str]:
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def own_address(hosts: str | None) -> str:
    """The address under which the processes on `hosts` reach this one: loopback where all of them are this machine.

    Raises LaunchError for a host whose name nobody knows.
    """
    for host in (part.rsplit(":", 1)[0] for part in (hosts or "").split(",") if part):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent: it only chooses a way
                probe.connect((socket.gethostbyname(host), 9))
                address, other = probe.getsockname()[0], probe.getpeername()[0]
        except OSError as error:
            raise LaunchError(f"launch.hosts: {host!r} can't be found ({error}); write `name:slots,...`") from None
        if address != other and not other.startswith("127."):
            return address
    return "127.0.0.1"
