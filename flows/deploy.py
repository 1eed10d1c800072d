"""Prepares a Prefect server: a work pool, the deployments of prefect.yaml, and automations for dead and for failed runs.

`python -m flows.deploy` can be run any number of times; PREFECT_API_URL names the server. Changes that users made to the
deployments in Prefect's pages (schedules, a pause) are kept. Without options the pool is the one of this machine (`make ui`),
with `--pool` one whose runs work in clones (flows/pools.py).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

import flows  # noqa: F401  before Prefect: its environment
from flows import pools
from flows.notify import NOT_PUSHED, make_notification, save_automation

POOL = "alpro"
MOST_RUNS = 8  # processes of runs at a time, most of which wait; see flows/slots.py
POOL_TEXT = "Runs of ALPRO's flows. The limit is the number of their processes; trainings wait for each other by slots."
AUTOMATION = "a run without a sign of life has crashed"
SILENT_S = 150  # five heartbeats, because a busy machine sends them late
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut", "Paused", "Suspended", "AwaitingConcurrencySlot",
        "Passed", "Promoted", "Refused", NOT_PUSHED)  # fmt: skip
PAGE = 200  # deployments of one answer
TAG = "alpro"  # of all deployments of prefect.yaml


async def make_pool() -> None:
    """Create the work pool if it does not exist. One that an earlier version made with a limit of one run gets MOST_RUNS."""
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    async with get_client() as client:
        try:
            pool = await client.read_work_pool(POOL)
        except ObjectNotFound:
            create = WorkPoolCreate(name=POOL, type="process", description=POOL_TEXT, concurrency_limit=MOST_RUNS)
            await client.create_work_pool(create)
        else:
            if pool.concurrency_limit in (None, 1) and not pool.description:
                update = WorkPoolUpdate(description=POOL_TEXT, concurrency_limit=MOST_RUNS)
                await client.update_work_pool(POOL, update)


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


async def deploy(root: Path, entry: dict[str, Any], other: pools.Pool | None = None) -> str:
    """Create or update one deployment of prefect.yaml, for its own or another pool.

    Returns its name for `prefect deployment run`.
    """
    from prefect import Flow, get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.schedules import Schedule

    flow: Any = await Flow.afrom_source(source=str(root), entrypoint=entry["entrypoint"])
    short, pool = entry["name"], entry["work_pool"]
    if other:
        short = f"{short}-{other.name}"
        pool = {"name": other.name, "job_variables": other.job_variables(pools.definition(root, other))}
    name = f"{flow.name}/{short}"
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
        short,
        description=description,
        tags=entry.get("tags"),
        paused=paused,
        schedules=schedules,
        job_variables=pool.get("job_variables"),
    )
    if schedules is None:
        deployment.model_fields_set.discard("schedules")  # otherwise Prefect sends an empty list, which deletes all
    if other:
        deployment.storage = await other.storage()
    await deployment.aapply(work_pool_name=pool["name"])
    return name


async def deployed() -> list[UUID]:
    """Return the deployments of all pools."""
    from prefect import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    found: list[UUID] = []
    async with get_client() as client:
        tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
        while page := await client.read_deployments(deployment_filter=tagged, limit=PAGE, offset=len(found)):
            found += [one.id for one in page]
    return found


async def deploy_all(root: Path, other: pools.Pool | None = None) -> None:
    """Prepare the server: work pool, deployments, automations. Prints the deployments' names."""
    await (pools.make(root, other) if other else make_pool())
    for entry in yaml.safe_load((root / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]:
        print(await deploy(root, entry, other), flush=True)
    identifiers = await deployed()
    await make_crash_automation(identifiers)
    await make_notification(identifiers)


def main() -> int:
    """Prepare the server; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.deploy", description="Make the deployments of prefect.yaml.")
    pools.add_options(parser)
    options = parser.parse_args()
    try:
        asyncio.run(deploy_all(Path.cwd(), pools.from_options(options)))
    except ValueError as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
