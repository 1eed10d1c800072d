"""Waiting runs of a flow, and how Prefect's pages show them: as Waiting while they wait for a slot or for another run.

A worker's run that finds the project's run lock held by a run that must be alone goes back to Prefect's queue. Limits of
deployments are not used: Prefect takes such a limit's lease away from a paused run, and then ends the run (`promote=ask`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from prefect import get_client, get_run_logger
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import Pause
from prefect.runtime import flow_run
from prefect.states import AwaitingConcurrencySlot, Running

from alpro.lineage import main_checkout
from flows.run_lock import only_run, shared_run
from flows.server import has_own_server
from flows.worker import has_worker

RETRY_S = 30  # as long as Prefect itself waits for a slot
SERVER_S = 300  # that a server may be away
WAITING = "Waiting"  # name of the state; its type is RUNNING, because the run's process lives


def project_lock(checkout: Path, alone: bool = False, can_restart: bool = True) -> AbstractContextManager[None]:
    """Hold the project's run lock in a flow: alone if asked for or if no other run can see this one, else beside others.

    If the lock is not free, put a worker's run that can restart back into the queue, else wait.
    """
    wait = put_back if can_restart and has_worker() else get_run_logger().warning
    lock = only_run if alone or has_own_server() else shared_run
    return lock(main_checkout(checkout), flow_run.name or "run", wait=wait)


def put_back(reason: str) -> None:
    """Set this run's state to AwaitingConcurrencySlot and end its process; the worker starts it again after RETRY_S."""
    get_run_logger().warning("%s; this run is tried again in %d s", reason, RETRY_S)
    state: State[None] = AwaitingConcurrencySlot(scheduled_time=datetime.now(UTC) + timedelta(seconds=RETRY_S), message=reason)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, state, force=True)
    raise Pause(state=state)  # the one exception with which a run may end without a final state


class Sign:
    """Shows this run as Waiting, with the reason; a run that is being cancelled stays Cancelling."""

    def __init__(self) -> None:
        self.reason = ""

    def show(self, reason: str) -> None:
        """Show the reason, and log it, unless it is shown already."""
        if reason != self.reason:
            get_run_logger().info(reason)
            _set(State(type=StateType.RUNNING, name=WAITING, message=reason))
            self.reason = reason


@contextmanager
def waiting() -> Iterator[Sign]:
    """Give the sign that shows why this run waits. After the block the run is shown as Running again."""
    sign = Sign()
    yield sign
    if sign.reason:
        _set(Running())


def _set(state: State[None]) -> None:
    """Change the state by Prefect's rules, which do not let a cancelled run run again. Waits for a server that restarts."""
    deadline_s = time.monotonic() + SERVER_S
    with get_client(sync_client=True) as client:
        while True:
            try:
                client.set_flow_run_state(flow_run.id, state)
                return
            except httpx.TransportError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(1)
