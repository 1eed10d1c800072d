"""`alpro launch` with `launch.min_processes`: a lost process is said, and the run goes on while enough are left.

Horovod gives up the host of a lost process as a whole, and takes in hosts and slots that the discovery program prints later.
Everything else is as in alpro.launch: the launcher's death ends all, a world without progress is ended, the failure that
left too few processes is named.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from alpro.config import Launch
from alpro.errors import LaunchError
from alpro.launch.command import horovodrun, own_address, worker_environment
from alpro.launch.diagnosis import Rank
from alpro.launch.supervisor import Supervisor
from alpro.terminal import console


def run_world(settings: Launch, command: list[str]) -> int:
    """Run a command on between `min_processes` and `max_processes` processes; returns 0, or raises LaunchError."""
    with tempfile.TemporaryDirectory(prefix="alpro-launch-") as folder:
        discovery = settings.discovery or str(fixed_hosts(settings.hosts or "", Path(folder)))
        hosts = discovered(discovery)
        whole = elastic_command(settings, discovery, hosts, command)
        console.say("alpro launch: " + shlex.join(whole))
        return ElasticSupervisor(settings.model_copy(update={"hosts": hosts}), whole, worker_environment(settings)).wait()


def elastic_command(settings: Launch, discovery: str, hosts: str, command: list[str]) -> list[str]:
    """The command of an elastic world. Raises LaunchError where `horovodrun` is missing."""
    here = ["--network-interfaces", "lo"] if own_address(hosts) == "127.0.0.1" else []
    return [
        *horovodrun(settings),
        *("--min-np", str(settings.min_processes), "--max-np", str(settings.max_processes or settings.world)),
        *("--host-discovery-script", discovery, "--elastic-timeout", f"{settings.start_timeout_s:.0f}", *here, *command),
    ]


def fixed_hosts(hosts: str, folder: Path) -> Path:
    """A discovery program for hosts that don't change."""
    program = folder / "discovery"
    program.write_text("#!/bin/sh\n" + "".join(f"echo {shlex.quote(host)}\n" for host in hosts.split(",") if host))
    program.chmod(0o755)
    return program


def discovered(program: str) -> str:
    """The hosts that a discovery program prints now, as a list of Horovod's. Raises LaunchError when it fails."""
    try:
        found = subprocess.run(
            [os.path.abspath(program)], capture_output=True, text=True, timeout=60, check=True
        ).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise LaunchError(f"launch.discovery: {program} can't be run ({error}); it must print `name:slots` lines") from None
    if not found:
        raise LaunchError(f"launch.discovery: {program} prints no host")
    return ",".join(found)


class ElasticSupervisor(Supervisor):
    """Processes come and go; each keeps the number that it began with, which its lines carry."""

    def __init__(self, settings: Launch, command: list[str], environment: dict[str, str]) -> None:
        super().__init__(settings, command, environment)
        self.ranks: list[Rank] = []
        self.failure = ""  # the one that left too few, or the last
        self.met = False

    def _enter(self, number: int) -> Rank:
        self.ranks.append(rank := Rank(number))
        return rank

    def _numbered(self, number: int) -> Rank:
        return next((rank for rank in reversed(self.ranks) if rank.number == number), Rank(number))

    def _lost(self, rank: Rank, seen: str, told: str = "") -> None:
        if rank not in self.ranks or rank.failed:
            return
        rank.failed = True
        line = f"{rank} failed: {told}" if told else f"{rank} {seen}"
        left, needed = sum(not other.failed and not other.leaving for other in self.ranks), self.settings.min_processes or 1
        if left + 1 >= needed:
            self.failure = line
        console.say(f"alpro launch: {line}; {left} processes are left, {needed} are needed", sys.stderr)

    def _failure(self, rank: Rank | None, seen: str, told: str = "") -> LaunchError:
        return LaunchError((self.failure or seen) + self._own_words())

    def _check_times(self, began_s: float) -> None:
        active = [rank for rank in self.ranks if not rank.failed and not rank.leaving]
        self.met = self.met or sum(rank.joined for rank in active) >= self.settings.world
        now_s = time.monotonic()
        if not self.met and now_s - began_s > self.settings.start_timeout_s:
            joined = sum(rank.joined for rank in active)
            raise LaunchError(
                f"{joined} of {self.settings.world} processes met within launch.start_timeout_s="
                f"{self.settings.start_timeout_s:g} s{self._own_words()}"
            )
        self._check_stall(active, now_s)
