"""The hosts that an elastic world may add."""

from __future__ import annotations

from collections.abc import Callable

from horovod.runner.elastic.discovery import HostDiscoveryScript

from alpro.config.base import HOSTS
from alpro.launch.ssh import is_remote


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
