"""What a Prefect server must know before its pages are of use: work pool, deployments, and what makes a dead run Crashed.

`python -m flows.deploy` may run any number of times; PREFECT_API_URL says at which server. The deployments are those of
prefect.yaml. `prefect deploy --all` would do as well, but that of 3.8.8 asks for the pool's workers with a limit of null,
which its server refuses with the newest fastapi, and ends after the first deployment.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

import flows  # noqa: F401  before Prefect: its environment

POOL = "alpro"
AUTOMATION = "a run without a sign of life has crashed"
SILENT_S = 90  # three heartbeats
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")


async def prepare() -> None:
    """Make the work pool and the automation where they do not exist yet."""
    from prefect import get_client
    from prefect.automations import Automation
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification
    from prefect.exceptions import ObjectNotFound

    async with get_client() as client:
        try:
            await client.read_work_pool(POOL)
        except ObjectNotFound:
            await client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        if await client.read_automations_by_name(AUTOMATION):
            return
    beat = "prefect.flow-run.heartbeat"
    crash = Automation(
        name=AUTOMATION,
        trigger=EventTrigger(
            after={beat},
            expect={beat, *(f"prefect.flow-run.{state}" for state in ENDS)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_S),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"no sign of life for {SILENT_S} s: its machine is gone")],
    )
    await crash.acreate()


async def deploy(root: Path, entry: dict[str, Any]) -> str:
    """Make or renew one deployment of prefect.yaml; returns its name as `prefect deployment run` takes it."""
    from prefect import Flow
    from prefect.schedules import Schedule

    flow: Any = await Flow.afrom_source(source=str(root), entrypoint=entry["entrypoint"])
    schedules = [
        Schedule(cron=one["cron"], timezone=one.get("timezone", "UTC"), active=one.get("active", True))
        for one in entry.get("schedules", [])
    ]
    made = await flow.ato_deployment(
        name=entry["name"], description=entry.get("description") or flow.description, schedules=schedules
    )
    await made.aapply(work_pool_name=entry["work_pool"]["name"])
    return f"{flow.name}/{entry['name']}"


async def _all(root: Path) -> None:
    await prepare()
    for entry in yaml.safe_load((root / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]:
        print(await deploy(root, entry), flush=True)


def main() -> int:
    """Prepare the server and make all deployments."""
    asyncio.run(_all(Path.cwd()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
