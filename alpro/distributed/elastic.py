"""Elastic worlds: restarts the work with fewer or more processes when processes are lost or added."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from alpro.distributed.backend import LostRankError
from alpro.distributed.collectives import any_true
from alpro.distributed.world import check_proofs, disconnect, init, rank, rejoin, size
from alpro.launch import heartbeat

Result = TypeVar("Result")


class _HostsChanged(Exception):
    """The launcher has reported other hosts."""


def run_elastic(attempt: Callable[[Callable[[], None]], Result], say: Callable[[str], None]) -> Result:
    """Call `attempt(check)` until it returns; call it again in the new world when processes are lost or hosts change.

    `attempt` must be able to restart from any process's state. Call no collective outside it: a process that joins later
    would miss it and deadlock. `attempt` calls `check` on all ranks at points where a restart loses nothing; waiting
    processes join there.
    """

    def check() -> None:
        if any_true(heartbeat.hosts_changed()):
            raise _HostsChanged

    heartbeat.on_loss(disconnect)  # nothing else tells that a host is gone before Gloo's own limit
    init()
    while True:
        try:
            check_proofs()
            return attempt(check)
        except LostRankError:
            disconnect()
            say("elastic: another process was lost; resuming from the last commit")
        except _HostsChanged:
            pass
        heartbeat.forget_host_changes()
        rejoin()
        say(f"elastic: {size()} processes from here on, this one is rank {rank()}")
