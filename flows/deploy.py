"""What a Prefect server must know before its pages are of use: work pool, deployments, and what makes a dead run Crashed.

`python -m flows.deploy` may run any number of times; PREFECT_API_URL says at which server. The deployments are those of
prefect.yaml; what somebody did to them in the pages (schedules, a pause) stays. `prefect deploy --all` would do as well, but
that of 3.8.8 asks for the pool's workers with a limit of null, which its server refuses with the newest fastapi, and ends
after the first deployment.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

import flows  # noqa: F401  before Prefect: its environment

POOL = "alpro"
AUTOMATION = "a run without a sign of life has crashed"
SILENT_S = 150  # five heartbeats: a starved machine is late, and not dead
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut", "Paused", "Suspended", "Passed", "Promoted", "Refused")


async def make_pool() -> None:
    """Make the work pool where it does not exist yet."""
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    async with get_client() as client:
        try:
            await client.read_work_pool(POOL)
        except ObjectNotFound:
            await client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))


async def watch(deployments: Sequence[UUID]) -> None:
    """Make or renew the automation: a run of these deployments that shows no sign of life is marked Crashed."""
    from prefect import get_client
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
            match_related=ResourceSpecification({"prefect.resource.id": [f"prefect.deployment.{one}" for one in deployments]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_S),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"no sign of life for {SILENT_S} s: its machine is gone")],
    )
    async with get_client() as client:
        there = await client.read_automations_by_name(AUTOMATION)
    if there:
        crash.id, crash.enabled = there[0].id, there[0].enabled
        await crash.aupdate()
    else:
        await crash.acreate()


async def deploy(root: Path, entry: dict[str, Any]) -> tuple[str, UUID]:
    """Make or renew one deployment of prefect.yaml; returns its name, as `prefect deployment run` takes it, and its id."""
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
            Schedule(cron=one["cron"], timezone=one.get("timezone", "UTC"), active=one.get("active", True))
            for one in entry.get("schedules", [])
        ]
    described = entry.get("description") or flow.description
    made = await flow.ato_deployment(
        entry["name"], description=described, paused=paused, schedules=schedules, job_variables=pool.get("job_variables")
    )
    if schedules is None:
        made.model_fields_set.discard("schedules")  # Prefect makes an empty list of None, which deletes all
    return name, await made.aapply(work_pool_name=pool["name"])


async def _all(root: Path) -> None:
    await make_pool()
    made = []
    for entry in yaml.safe_load((root / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]:
        name, deployment = await deploy(root, entry)
        print(name, flush=True)
        made.append(deployment)
    await watch(made)


def main() -> int:
    """Prepare the server and make all deployments."""
    asyncio.run(_all(Path.cwd()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
