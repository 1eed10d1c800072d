"""The hosts that an elastic world may add."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from horovod.runner.elastic.discovery import HostDiscoveryScript

from alpro.config.base import HOSTS
from alpro.launch.ssh import is_remote

AGAIN_S = 60.0  # between checks of a host that cannot take part


class Discovery(HostDiscoveryScript):
    """Hosts that the discovery program prints, without those that cannot take part. Each of these is reported once."""

    def __init__(
        self, program: str, address: str, say: Callable[[str], None], examine: Callable[[str], str] | None = None
    ) -> None:
        """`address` is the one on which the launcher listens; `say` prints a line.

        `examine` returns what is wrong with a host. It is called for other hosts that are not there from the start, which were
        checked before it.
        """
        super().__init__(program, None)
        self._only_here, self._say, self._examine = address.startswith("127."), say, examine
        self._refused: set[str] = set()
        self._passed: set[str] = set()
        self._checked_s: dict[str, float] = {}  # when the last check of a host began
        self._is_first = True

    def find_available_hosts_and_slots(self) -> dict[str, int]:
        """Return the slots of each host. Raises RuntimeError if the program fails."""
        hosts: dict[str, int] = {}
        for entry in self._execute_discovery_script().split():
            name, _, slots = entry.rpartition(":")
            if fault := self._fault(entry, name):
                self._report(fault)
            elif self._may_join(name):
                hosts[name] = int(slots)
        self._is_first = False
        return hosts

    def _report(self, fault: str) -> None:
        if fault not in self._refused:
            self._refused.add(fault)
            self._say(f"alpro launch: launch.discovery: {fault}")

    def _may_join(self, name: str) -> bool:
        """Return True if a host has passed its check; otherwise start it, as Horovod must not wait for its end."""
        if name in self._passed:
            return True
        if self._is_first or self._examine is None or not is_remote(name):
            self._passed.add(name)
            return True
        if time.monotonic() - self._checked_s.get(name, float("-inf")) > AGAIN_S:
            self._checked_s[name] = time.monotonic()
            threading.Thread(target=self._check, args=(name, self._examine), daemon=True).start()
        return False

    def _check(self, name: str, examine: Callable[[str], str]) -> None:
        if fault := examine(name):
            self._report(f"host {name} cannot join: {fault}; it is checked again every {AGAIN_S:.0f} s")
        else:
            self._passed.add(name)
            self._say(f"alpro launch: host {name} may join")

    def _fault(self, entry: str, name: str) -> str:
        if not HOSTS.fullmatch(entry) or "," in entry:
            return f"{entry!r} is ignored; the program must print `name:slots` lines"
        if self._only_here and is_remote(name):
            return (
                f"host {name} is ignored: this run started on this machine alone, so its ports are open to no other; "
                "stop it and start it again while the program prints that host"
            )
        return ""
