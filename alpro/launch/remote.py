"""Reaches other hosts: the command that runs another one there, and the hosts that an elastic world may add."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from horovod.runner.common.util import env
from horovod.runner.elastic.discovery import HostDiscoveryScript
from horovod.runner.util import network

from alpro.config.base import HOSTS


def is_remote(host: str) -> bool:
    """Return True if a host name stands for another machine."""
    return network.resolve_host_address(host) not in network.get_local_host_addresses()


def remote_command(host: str, command: str, timeout_s: int | None = None) -> str:
    """Return a shell command that runs another one on `host`.

    Horovod's own form accepts every host key. This one leaves that check to ssh and its configuration, as secrets follow.
    """
    if env.is_kubeflow_mpi():
        return shlex.join([env.KUBEFLOW_MPI_EXEC, host, command])
    limit = [] if timeout_s is None else ["-o", f"ConnectTimeout={timeout_s}"]
    return shlex.join(["ssh", "-o", "BatchMode=yes", *limit, "--", host, command])


class Discovery(HostDiscoveryScript):
    """Hosts that the discovery program prints, without those that cannot take part. Each of these is reported once."""

    def __init__(self, program: str, address: str, say: Callable[[str], None]) -> None:
        """`address` is the one on which the launcher listens; `say` prints a line."""
        super().__init__(program, None)
        self._only_here, self._say = address.startswith("127."), say
        self._refused: set[str] = set()

    def find_available_hosts_and_slots(self) -> dict[str, int]:
        """Return the slots of each host. Raises RuntimeError if the program fails."""
        hosts: dict[str, int] = {}
        for entry in self._execute_discovery_script().split():
            name, _, slots = entry.rpartition(":")
            if fault := self._fault(entry, name):
                if entry not in self._refused:
                    self._refused.add(entry)
                    self._say(f"alpro launch: launch.discovery: {fault}")
            else:
                hosts[name] = int(slots)
        return hosts

    def _fault(self, entry: str, name: str) -> str:
        if not HOSTS.fullmatch(entry) or "," in entry:
            return f"{entry!r} is ignored; the program must print `name:slots` lines"
        if self._only_here and is_remote(name):
            return (
                f"host {name} is ignored: this run started on this machine alone, so its ports are open to no other; "
                "stop it and start it again while the program prints that host"
            )
        return ""
