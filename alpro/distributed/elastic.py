"""Elastic worlds: run again, with fewer or more processes, when processes are lost or added."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from alpro.distributed.collectives import broadcast_object
from alpro.distributed.world import disconnect, init, rank, rejoin, size

Result = TypeVar("Result")


def run_elastic(attempt: Callable[[Callable[[], None]], Result], say: Callable[[str], None]) -> Result:
    """Call `attempt(check)` until it returns: again, in the changed world, when a process was lost or hosts came or went.

    `attempt` must find its way from whatever the processes hold; no collective may be called outside of it, as a process that
    joins would not take part. It calls `check` on all ranks where it can be begun anew without loss: that is where processes
    that wait are let in.
    """
    from horovod.common.elastic import State, run_fn

    class Watched(State):
        def save(self) -> None:
            pass

        def sync(self) -> None:
            pass

        def restore(self) -> None:
            disconnect()
            say("elastic: another process was lost; going on from the last commit")

        def reset(self) -> None:
            say(f"elastic: {size()} processes from here on, this one is rank {rank()}")

    init()
    state = Watched(bcast_object=broadcast_object, get_rank=rank)
    return run_fn(lambda _: attempt(state.check_host_updates), rejoin)(state)
