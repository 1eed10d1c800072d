"""Elastic worlds: restarts the work with fewer or more processes when processes are lost or added."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from alpro.distributed.objects import broadcast_object
from alpro.distributed.world import disconnect, init, rank, rejoin, size

Result = TypeVar("Result")


def run_elastic(attempt: Callable[[Callable[[], None]], Result], say: Callable[[str], None]) -> Result:
    """Call `attempt(check)` until it returns; call it again in the new world when processes are lost or hosts change.

    `attempt` must be able to restart from any process's state. Call no collective outside it: a process that joins later
    would miss it and deadlock. `attempt` calls `check` on all ranks at points where a restart loses nothing; waiting
    processes join there.
    """
    from horovod.common.elastic import State, run_fn

    class Reporter(State):
        def save(self) -> None:
            pass

        def sync(self) -> None:
            pass

        def restore(self) -> None:
            disconnect()
            say("elastic: another process was lost; resuming from the last commit")

        def reset(self) -> None:
            say(f"elastic: {size()} processes from here on, this one is rank {rank()}")

    init()
    state = Reporter(bcast_object=broadcast_object, get_rank=rank)
    return run_fn(lambda _: attempt(state.check_host_updates), rejoin)(state)
