"""Builds the command that starts a world, and the environment of its processes."""

from __future__ import annotations

import importlib.util
import math
import os
import socket
import sys

from alpro.config import Launch
from alpro.errors import LaunchError


def check_installed(settings: Launch) -> None:
    """Raise LaunchError if the backend of a world of several processes is not installed."""
    if settings.backend == "horovod" and importlib.util.find_spec("horovod") is None:
        raise LaunchError(
            f"a world of {settings.world_size} processes needs Horovod, which is not installed for {sys.executable}; "
            "`make setup` builds it, or set launch.backend=torch, or launch.processes=1"
        )


def horovodrun(settings: Launch) -> list[str]:
    """Return the program that starts the ranks, with the options that every world needs.

    Raises LaunchError if Horovod is not installed.
    """
    check_installed(settings)
    timeout = str(math.ceil(settings.start_timeout_s))
    # Gloo's default of 30 s is less than importing torch takes on a busy machine; the ranks that wait would abort
    return [sys.executable, "-m", "alpro.launch.horovodrun", "-np", str(settings.world_size),
            "--gloo-timeout-seconds", timeout, *_host_options(settings)]  # fmt: skip


def torchrun(settings: Launch) -> list[str]:
    """Return the program that starts the ranks for `launch.backend=torch`, with the options that every world needs."""
    return [sys.executable, "-m", "alpro.launch.torchrun", "-np", str(settings.world_size), *_host_options(settings)]


def _host_options(settings: Launch) -> list[str]:
    options = {
        "--remote-shell": settings.remote_shell if settings.remote_shell != "ssh" else None,
        "--network-interfaces": ",".join(settings.network_interfaces or []),
        "--ssh-port": settings.ssh_port,
        "--ssh-identity-file": settings.ssh_identity,
    }
    return [str(word) for option in options.items() if option[1] for word in option]


def world_command(settings: Launch, command: list[str]) -> list[str]:
    """Return the full command of a world of more than one process. Raises LaunchError if its backend is not installed."""
    starter = torchrun(settings) if settings.backend == "torch" else horovodrun(settings)
    return [*starter, *(["-H", settings.hosts] if settings.hosts else []), *command]


def starter_environment(settings: Launch) -> dict[str, str]:
    """Return the environment of the starter, which sends the ranks the part that they need (launch.environment)."""
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
            address, other = route_to(host)
        except OSError as error:
            raise LaunchError(f"launch.hosts: {host!r} cannot be resolved ({error}); write `name:slots,...`") from None
        if address != other and not other.startswith("127."):
            return address
    return "127.0.0.1"


def route_to(host: str) -> tuple[str, str]:
    """Return this machine's address on the way to a host, and the host's. Raises OSError if its name does not resolve."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing; connect() only picks a route
        probe.connect((socket.gethostbyname(host), 9))
        return probe.getsockname()[0], probe.getpeername()[0]
