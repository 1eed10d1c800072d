"""The run lock in a flow: a worker's run that finds another run on the project goes back to Prefect's queue.

The work pool has a limit of one run (flows/deploy.py), so a worker's runs wait for each other as Scheduled or Late. The lock is
for runs that the pool does not know: `python -m flows.pipeline`, and a paused run that was resumed. Limits of deployments are
not used: Prefect takes such a limit's lease away from a paused run, and then ends the run (`promote=ask`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect import get_client, get_run_logger
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.runtime import flow_run
from prefect.states import AwaitingConcurrencySlot

from alpro.lineage import main_checkout
from flows.run_lock import only_run
from flows.worker import has_worker

RETRY_S = 30  # as long as Prefect itself waits for a slot


def project_lock(checkout: Path, can_restart: bool = True) -> AbstractContextManager[None]:
    """Hold the project's run lock in a flow. If another run holds it, put a worker's run that can restart back, else wait."""
    wait = put_back if can_restart and has_worker() else get_run_logger().warning
    return only_run(main_checkout(checkout), flow_run.name or "run", wait=wait)


def put_back(reason: str) -> None:
    """Set this run's state to AwaitingConcurrencySlot and end its process; the worker starts it again after RETRY_S."""
    get_run_logger().warning("%s; this run is tried again in %d s", reason, RETRY_S)
    state: State[None] = AwaitingConcurrencySlot(scheduled_time=datetime.now(UTC) + timedelta(seconds=RETRY_S), message=reason)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, state, force=True)
    raise Pause(state=state)  # the one exception with which a run may end without a final state
