"""Prepares a Prefect server: the work pool, the deployments of prefect.yaml, and automations for dead and for failed runs.

`python -m flows.deploy` can be run any number of times; PREFECT_API_URL names the server. Changes that users made to the
deployments in Prefect's pages (schedules, a pause) are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

import flows  # noqa: F401  before Prefect: its environment
from flows.notify import make_notification, save_automation

POOL = "alpro"
AUTOMATION = "a run without a sign of life has crashed"
SILENT_S = 150  # five heartbeats, because a busy machine sends them late
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut", "Paused", "Suspended", "AwaitingConcurrencySlot",
        "Passed", "Promoted", "Refused")  # fmt: skip


async def make_pool() -> None:
    """Create the work pool if it does not exist, and let it run one flow at a time unless it already has a limit."""
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    async with get_client() as client:
        try:
            pool = await client.read_work_pool(POOL)
        except ObjectNotFound:
            await client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=1))
        else:
            if pool.concurrency_limit is None:
                await client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=1))


async def make_crash_automation(deployments: Sequence[UUID]) -> None:
    """Create or update the automation that marks a run of these deployments as Crashed if it sends no heartbeats."""
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    beat = "prefect.flow-run.heartbeat"
    crash = Automation(
        name=AUTOMATION,
        trigger=EventTrigger(
            after={beat},
            expect={beat, *(f"prefect.flow-run.{state}" for state in ENDS)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.id": [f"prefect.deployment.{deployment}" for deployment in deployments]}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_S),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message=f"no heartbeat for {SILENT_S} s: its process or machine is gone"
            )
        ],
    )
    await save_automation(crash)


async def deploy(root: Path, entry: dict[str, Any]) -> tuple[str, UUID]:
    """Create or update one deployment of prefect.yaml. Returns its name for `prefect deployment run`, and its id."""
    from prefect import Flow, get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.schedules import Schedule

    flow: Any = await Flow.afrom_source(source=str(root), entrypoint=entry["entrypoint"])
    name, pool = f"{flow.name}/{entry['name']}", entry["work_pool"]
    try:
        async with get_client() as client:
            paused = (await client.read_deployment_by_name(name)).paused
        schedules = None
    except ObjectNotFound:
        paused = False
        schedules = [
            Schedule(cron=schedule["cron"], timezone=schedule.get("timezone", "UTC"), active=schedule.get("active", True))
            for schedule in entry.get("schedules", [])
        ]
    description = entry.get("description") or flow.description
    deployment = await flow.ato_deployment(
        entry["name"],
        description=description,
        tags=entry.get("tags"),
        paused=paused,
        schedules=schedules,
        job_variables=pool.get("job_variables"),
    )
    if schedules is None:
        deployment.model_fields_set.discard("schedules")  # otherwise Prefect sends an empty list, which deletes all
    return name, await deployment.aapply(work_pool_name=pool["name"])


async def deploy_all(root: Path) -> None:
    """Prepare the server: work pool, deployments, automation. Prints the deployments' names."""
    await make_pool()
    identifiers = []
    for entry in yaml.safe_load((root / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]:
        name, identifier = await deploy(root, entry)
        print(name, flush=True)
        identifiers.append(identifier)
    await make_crash_automation(identifiers)
    await make_notification(identifiers)


if __name__ == "__main__":
    asyncio.run(deploy_all(Path.cwd()))
