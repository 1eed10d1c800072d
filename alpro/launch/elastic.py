"""`alpro launch` with `launch.min_processes`: the run continues as long as enough processes remain.

A lost process is reported, and the run ends only if fewer than `min_processes` remain. Horovod gives up the whole host of a
lost process, and adds hosts and slots that the discovery program prints later. Everything else is as in
alpro.launch.supervisor: if the launcher dies all processes end, a stalled world is ended, and the error names the failure
that left too few processes.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

from alpro.config import Launch
from alpro.config.base import HOSTS
from alpro.errors import LaunchError
from alpro.launch import heartbeat
from alpro.launch.command import horovodrun, starter_environment
from alpro.launch.diagnosis import VANISHED, Rank
from alpro.launch.supervisor import Supervisor
from alpro.terminal import logs

log = logs.get(__name__)


def run_world(settings: Launch, command: list[str], params: Path | None = None) -> int:
    """Run a command on `min_processes` to `max_processes` processes; return 0. Raises LaunchError if too few remain.

    With `params`, the parameter file, hosts that join are checked first.
    """
    with tempfile.TemporaryDirectory(prefix="alpro-launch-") as folder:
        discovery = settings.discovery or str(fixed_hosts(settings.hosts or "", Path(folder)))
        hosts = discovered_hosts(discovery)
        full_command = elastic_command(settings, discovery, command, params)
        log.info("alpro launch: %s", shlex.join(full_command))
        settings = settings.model_copy(update={"hosts": hosts})
        return ElasticSupervisor(settings, full_command, starter_environment(settings)).wait()


def elastic_command(settings: Launch, discovery: str, command: list[str], params: Path | None = None) -> list[str]:
    """Return the full command of an elastic world. Raises LaunchError if Horovod is not installed."""
    return [
        *horovodrun(settings),
        *("--min-np", str(settings.min_processes), "--max-np", str(settings.max_processes or settings.world_size)),
        *("--host-discovery-script", shlex.quote(os.path.abspath(discovery))),  # Horovod passes it to a shell
        *(("--params", str(params)) if params else ()),
        *("--elastic-timeout", f"{settings.start_timeout_s:.0f}", *command),
    ]


def fixed_hosts(hosts: str, folder: Path) -> Path:
    """Write a discovery program for hosts that do not change; return its path."""
    program = folder / "discovery"
    program.write_text("#!/bin/sh\n" + "".join(f"echo {shlex.quote(host)}\n" for host in hosts.split(",") if host))
    program.chmod(0o755)
    return program


def with_discovered_hosts(settings: Launch) -> Launch:
    """Return the settings with the hosts that the discovery program prints now, if there is one."""
    if settings.discovery is None:
        return settings
    return settings.model_copy(update={"hosts": discovered_hosts(settings.discovery)})


def discovered_hosts(program: str) -> str:
    """Run a discovery program; return its hosts in the form of `launch.hosts`. Raises LaunchError if it fails."""
    try:
        hosts = subprocess.run(
            [os.path.abspath(program)], capture_output=True, text=True, timeout=60, check=True
        ).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise LaunchError(f"launch.discovery: {program} cannot be run ({error}); it must print `name:slots` lines") from None
    if not hosts:
        raise LaunchError(f"launch.discovery: {program} prints no host; it must print `name:slots` lines")
    if invalid := [host for host in hosts if not HOSTS.fullmatch(host)]:
        raise LaunchError(f"launch.discovery: {program} prints {invalid[0]!r}; it must print `name:slots` lines")
    return ",".join(hosts)


class ElasticSupervisor(Supervisor):
    """Supervises a world whose processes come and go. Each keeps its first number, which prefixes its lines."""

    def __init__(self, settings: Launch, command: list[str], environment: dict[str, str]) -> None:
        super().__init__(settings, command, environment)
        self.ranks: list[Rank] = []
        self.failure = ""  # the failure that left too few processes, or the last one
        self.met = False  # all processes of the first world have joined

    def _register(self, number: int) -> Rank:
        self.ranks.append(rank := Rank(number))
        return rank

    def _rank_of_output(self, number: int) -> Rank:
        return next((rank for rank in reversed(self.ranks) if rank.number == number), Rank(number))

    def _on_failure(self, rank: Rank, observation: str, message: str = "") -> None:
        if rank not in self.ranks or rank.failed:
            return
        rank.failed = True
        if observation == VANISHED:
            self.listener.send(heartbeat.LOST)
        line = f"{rank} failed: {message}" if message else f"{rank} {observation}"
        left, needed = sum(not other.failed and not other.leaving for other in self.ranks), self.settings.min_processes or 1
        if left + 1 >= needed:
            self.failure = line
        log.warning("alpro launch: %s; %d processes are left, %d are needed", line, left, needed)

    def _diagnose(self, rank: Rank | None, observation: str, message: str = "") -> LaunchError:
        return LaunchError((self.failure or observation) + self._starter_tail())

    def _check_times(self, began_s: float) -> None:
        active = [rank for rank in self.ranks if not rank.failed and not rank.leaving]
        self.met = self.met or sum(rank.joined for rank in active) >= self.settings.world_size
        now_s = time.monotonic()
        if not self.met and now_s - began_s > self.settings.start_timeout_s:
            joined = sum(rank.joined for rank in active)
            raise LaunchError(
                f"{joined} of {self.settings.world_size} processes joined within launch.start_timeout_s="
                f"{self.settings.start_timeout_s:g} s{self._starter_tail()}"
            )
        self._check_stall(active, now_s)
