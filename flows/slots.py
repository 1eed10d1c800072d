"""Slots of machines, as Prefect's global concurrency limits: one training on each machine, evaluations beside it if they fit.

`alpro-training-MACHINE` has one slot, which a training takes, and `alpro-memory-MACHINE` one for each GB, of which trainings
and evaluations take what `alpro plan --stages` expects. Other machines of `launch.hosts` give their whole slot to either. A
stage that is a Slurm job takes none. A run makes the limits that are missing; users change their sizes in Prefect's pages.

Slots are leased: the server frees those of a killed run after LEASE_S. Prefect's own `concurrency` gives up renewing after a
few seconds without an answer, and a training must survive a restart of the server, hence the class Lease.
"""

from __future__ import annotations

import contextvars
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.exceptions import ObjectAlreadyExists
from prefect.runtime import flow_run

from flows.commands import output_of
from flows.server import has_own_server
from flows.waiting import WAITING, waiting

TRAINING, MEMORY = "alpro-training-", "alpro-memory-"
LEASE_S, RENEW_S = 120.0, 30.0
POLL_S = 5.0
FORGOTTEN_S = 300.0  # slots that no run can hold for so long are freed
PATIENCE_S = 10.0  # for the renewal of a lease to end
GB = 1e9


@dataclass(frozen=True, slots=True)
class Demand:
    """Slots of a limit that a stage takes. `size`: the number of slots with which the limit is made if it is missing."""

    limit: str
    slots: int
    size: int

    def __str__(self) -> str:
        if self.limit.startswith(MEMORY):
            return f"{self.slots} GB of memory on {self.limit.removeprefix(MEMORY)}"
        return f"the training slot of {self.limit.removeprefix(TRAINING)}"


class Slots:
    """The demands of a run's stages. `needs`: what `alpro plan --stages --json` printed; empty: no stage takes a slot."""

    def __init__(self, needs: Mapping[str, Any]) -> None:
        self._needs = needs
        self._stages = {entry["stage"]: entry for entry in needs.get("stages", ())}

    def demands(self, stage: str) -> list[Demand]:
        """Return the slots that a stage takes."""
        entry = self._stages.get(stage)
        if entry is None:
            return []
        own = self._needs["machine"]
        whole = [name for name in entry["machines"] if entry["trains"] or name != own]
        found = [Demand(TRAINING + name, 1, 1) for name in sorted(whole)]
        if entry["here_bytes"]:
            size = max(1, math.floor(self._needs["memory_bytes"] / GB))
            found.append(Demand(MEMORY + own, min(size, math.ceil(entry["here_bytes"] / GB)), size))
        return found

    @contextmanager
    def held(self, stage: str, is_needed: Callable[[], bool] = lambda: True) -> Iterator[list[str]]:
        """Hold the slots of a stage, and yield the names of their limits, which must be tags of the task that runs it.

        If they are not free, show this run as Waiting until they are; but first ask `is_needed`, and if it returns False,
        take no slots: DVC will find that nothing is to be done.
        """
        demands = self.demands(stage)
        with ExitStack() as stack:
            leases = _wait(demands, is_needed) if demands else []
            for lease in leases:
                stack.enter_context(lease)
            yield [lease.demand.limit for lease in leases]


def slots_of(root: Path) -> Slots:
    """Return the demands of the stages in `root`; none if this run has its own server, where it is alone.

    Raises RuntimeError if `alpro plan` fails.
    """
    if has_own_server():
        return Slots({})
    return Slots(json.loads(output_of([sys.executable, "-m", "alpro", "plan", "--stages", "--json"], root)))


class Lease:
    """Slots that this run holds: renewed from the beginning of a `with` block, freed at its end.

    If the server cannot be reached, the renewal is tried until it can. If the lease has expired by then, the slots are taken
    again unless another run has them.
    """

    def __init__(self, demand: Demand, identifier: UUID) -> None:
        self.demand, self._identifier = demand, identifier
        self._ended = threading.Event()
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._renew,), daemon=True)
        self._warned = False

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join(PATIENCE_S)
        self.release()

    def release(self) -> None:
        """Free the slots. If the server does not answer, it frees them when the lease expires."""
        with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
            client.release_concurrency_slots_with_lease(self._identifier)

    def _renew(self) -> None:
        with get_client(sync_client=True) as client:
            while not self._ended.wait(RENEW_S):
                try:
                    client.renew_concurrency_lease(self._identifier, LEASE_S)
                except httpx.HTTPStatusError as error:
                    if error.response.status_code == HTTPStatus.GONE:
                        self._take_again(client)
                except httpx.HTTPError:
                    continue  # the server is away

    def _take_again(self, client: SyncPrefectClient) -> None:
        with suppress(httpx.HTTPError):
            if identifier := _acquire(client, self.demand):
                self._identifier = identifier
            elif not self._warned:
                self._warned = True
                get_run_logger().warning(
                    "Prefect's server has given %s to another run, because it was away for more than %d s; both continue",
                    self.demand, LEASE_S,
                )  # fmt: skip


def _wait(demands: Sequence[Demand], is_needed: Callable[[], bool]) -> list[Lease]:
    """Take all slots at once, as soon as they are free; none are held meanwhile, so that runs cannot block each other."""
    asked, unheld_s = False, time.monotonic()
    with waiting() as sign, get_client(sync_client=True) as client:
        while True:
            try:
                leases, missing = _take(client, demands)
                if missing is None:
                    return leases
                if not asked and not is_needed():
                    return []
                asked = True
                if _others_work(client):
                    unheld_s = time.monotonic()
                elif time.monotonic() - unheld_s > FORGOTTEN_S:
                    unheld_s = time.monotonic()
                    _free(client, missing)
                sign.show(f"waiting for {missing}{_holders(client, missing)}")
            except httpx.HTTPStatusError as error:
                if error.response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise
            except httpx.TransportError:  # the server restarts
                unheld_s = time.monotonic()
            time.sleep(POLL_S)


def _take(client: SyncPrefectClient, demands: Sequence[Demand]) -> tuple[list[Lease], Demand | None]:
    """Return leases for all demands, or none and the first demand that is not met."""
    leases: list[Lease] = []
    try:
        for demand in demands:
            identifier = _acquire(client, demand)
            if identifier is None:
                break
            leases.append(Lease(demand, identifier))
        else:
            return leases, None
    except BaseException:
        _release(leases)
        raise
    _release(leases)
    return [], demand


def _release(leases: Sequence[Lease]) -> None:
    for lease in leases:
        lease.release()


def _acquire(client: SyncPrefectClient, demand: Demand) -> UUID | None:
    """Return the lease of the slots, or None if they are not free. A missing limit is made."""
    slots = demand.slots
    holder = ConcurrencyLeaseHolder(type="flow_run", id=UUID(flow_run.id))
    while True:
        try:
            answer = client.increment_concurrency_slots_with_lease([demand.limit], slots, "concurrency", LEASE_S, holder).json()
        except httpx.HTTPStatusError as error:
            if error.response.status_code == HTTPStatus.LOCKED:
                return None
            if error.response.status_code != HTTPStatus.UNPROCESSABLE_ENTITY:
                raise
            size = client.read_global_concurrency_limit_by_name(demand.limit).limit
            if not size:  # somebody has closed the machine for runs
                return None
            if size >= slots:
                raise
            slots = size  # all that there are
            continue
        lease = UUID(answer["lease_id"])
        if answer["limits"]:
            return lease
        client.release_concurrency_slots_with_lease(lease)  # it is for no limit
        with suppress(ObjectAlreadyExists):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=demand.limit, limit=demand.size))


def _holders(client: SyncPrefectClient, demand: Demand) -> str:
    """Return which runs hold slots of a limit and since when, as the rest of a sentence. Their tasks are tagged with it."""
    running = {"state": {"type": {"any_": ["RUNNING"]}}}
    tagged = {**running, "tags": {"all_": [demand.limit]}}
    tasks = client.read_task_runs(
        task_run_filter=TaskRunFilter.model_validate(tagged), flow_run_filter=FlowRunFilter.model_validate(running)
    )
    numbers = {str(task.flow_run_id) for task in tasks}
    runs = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [*numbers]}})) if numbers else []
    names: dict[UUID | None, str] = {run.id: run.name for run in runs}
    parts = [
        f"{names.get(task.flow_run_id, 'another run')} has it for {task.name}"
        + (f", since {task.start_time.astimezone():%Y-%m-%d %H:%M:%S}" if task.start_time else "")
        for task in tasks
    ]
    return f" ({'; '.join(sorted(parts))})" if parts else ""


def _others_work(client: SyncPrefectClient) -> bool:
    """Return True if another flow run may hold slots: it is running or being cancelled, and not waiting itself."""
    active = {
        "state": {"type": {"any_": ["RUNNING", "CANCELLING"]}, "name": {"not_any_": [WAITING]}},
        "id": {"not_any_": [flow_run.id]},
    }
    return bool(client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(active), limit=1))


def _free(client: SyncPrefectClient, demand: Demand) -> None:
    """Free all slots of a limit: a server that was restored or lost its leases counts slots that nobody holds."""
    if not client.read_global_concurrency_limit_by_name(demand.limit).active_slots:
        return  # its size is 0
    get_run_logger().warning("no run works, but %s is taken; freeing all slots of %s", demand, demand.limit)
    client.update_global_concurrency_limit(demand.limit, GlobalConcurrencyLimitUpdate(active_slots=0))
