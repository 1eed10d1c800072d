"""`python -m flows.deploy` against a real server: creation of deployments, and changes kept by a second call."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.deploy import AUTOMATION, MOST_RUNS, POOL, SILENT_S, make_pool
from flows.pipeline import FLOWS
from flows.server import embedded_server

from .conftest import REPOSITORY, flow_environment

HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"


def test_run_is_marked_crashed_after_five_missed_heartbeats() -> None:
    code = "import flows; from prefect.settings import get_current_settings as now; print(now().flows.heartbeat_frequency)"
    variables = {name: value for name, value in os.environ.items() if name != HEARTBEAT}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=variables, capture_output=True, text=True)
    assert 5 * int(done.stdout) == SILENT_S < 180, done.stderr


@pytest.fixture
def api(tmp_path: Path, server_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a running server."""
    from prefect.settings import PREFECT_API_URL

    monkeypatch.setenv("PREFECT_HOME", str(server_home))
    with embedded_server(tmp_path):
        address = PREFECT_API_URL.value()
        assert address
        yield address


def deploy(api: str, home: Path, *words: str) -> None:
    command = [sys.executable, "-m", "flows.deploy", *words]
    variables = flow_environment(home) | {"PREFECT_API_URL": api}
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


async def read() -> tuple[dict[str, Any], list[Any]]:
    """Return all deployments by name, and the automations."""
    from prefect import get_client
    from prefect.client.schemas.sorting import DeploymentSort

    async with get_client() as client:
        deployments = await client.read_deployments(limit=100, sort=DeploymentSort.NAME_ASC)
        return {deployment.name: deployment for deployment in deployments}, await client.read_automations_by_name(AUTOMATION)


async def change_in_the_pages(pipeline: Any, other: Any) -> None:
    """Activate the nightly schedule, and give another deployment a schedule and a pause."""
    from prefect import get_client
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.client.schemas.schedules import CronSchedule

    async with get_client() as client:
        await client.update_deployment_schedule(pipeline.id, pipeline.schedules[0].id, active=True)
        await client.create_deployment_schedules(other.id, [(CronSchedule(cron="0 5 * * 1"), True)])
        await client.update_deployment(other.id, DeploymentUpdate(paused=True))


@pytest.mark.slow  # the server alone needs 10 s
def test_second_deployment_keeps_changes_made_in_the_pages(api: str, server_home: Path) -> None:
    deploy(api, server_home)
    first, _ = asyncio.run(read())
    assert len(first) == len(FLOWS) and not first["pipeline"].schedules[0].active
    asyncio.run(change_in_the_pages(first["pipeline"], first["evaluate"]))
    deploy(api, server_home)
    again, automations = asyncio.run(read())
    assert {name: one.id for name, one in again.items()} == {name: one.id for name, one in first.items()}
    assert [(one.schedule.cron, one.active) for one in again["pipeline"].schedules] == [("0 2 * * *", True)]
    assert [(one.schedule.cron, one.active) for one in again["evaluate"].schedules] == [("0 5 * * 1", True)]
    assert again["evaluate"].paused and not again["pipeline"].paused

    # workers' runs send heartbeats often enough for the automation, which applies only to these deployments
    assert all(one.job_variables["env"] == {HEARTBEAT: "30"} for one in again.values())
    (crash,) = automations
    assert crash.trigger.within == timedelta(seconds=SILENT_S)
    assert set(crash.trigger.match_related["prefect.resource.id"]) == {f"prefect.deployment.{one.id}" for one in again.values()}


@pytest.mark.slow  # the server alone needs 10 s
def test_limit_of_one_run_is_lifted_unless_a_user_set_it(api: str) -> None:
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    async def limits() -> list[int | None]:
        async with get_client() as client:
            with suppress(ObjectNotFound):
                await client.delete_work_pool(POOL)
            await client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=1))  # an earlier version
            found = []
            for chosen in (1, 3, 1, None):  # what the pool has before each start; the first is that of the earlier version
                await client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=chosen))
                await make_pool()
                found.append((await client.read_work_pool(POOL)).concurrency_limit)
            return found

    assert asyncio.run(limits()) == [MOST_RUNS, 3, 1, None]


@pytest.mark.slow  # the server alone needs 10 s
def test_prefect_deploy_all_makes_the_same_deployments(api: str, server_home: Path) -> None:
    deploy(api, server_home)
    first, _ = asyncio.run(read())
    variables = flow_environment(server_home) | {"PREFECT_API_URL": api}
    command = [str(Path(sys.executable).with_name("prefect")), "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    again, _ = asyncio.run(read())
    assert {name: one.id for name, one in again.items()} == {name: one.id for name, one in first.items()}
    for name, one in again.items():
        assert one.tags == first[name].tags and one.tags[0] == "alpro" and one.work_pool_name == "alpro"
        assert one.parameter_openapi_schema == first[name].parameter_openapi_schema
    choices = again["finetune"].parameter_openapi_schema["properties"]["task"]["enum"]
    assert {"msrvtt_ret", "didemo_ret", "msrvtt_qa", "msvd_qa"} <= set(choices)


@pytest.mark.slow  # the server alone needs 10 s
def test_another_pool_has_deployments_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import get_client
    from prefect.settings import PREFECT_API_URL

    async def read_pool() -> Any:
        async with get_client() as client:
            return await client.read_work_pool("big")

    home = tmp_path / "home"  # the other tests count the deployments of their server
    monkeypatch.setenv("PREFECT_HOME", str(home))
    with embedded_server(tmp_path):
        api = str(PREFECT_API_URL.value())
        deploy(api, home)
        options = ("--type", "docker", "--image", "registry/alpro:1", "--repository", "https://host/a.git", "--branch", "next")
        deploy(api, home, "--pool", "big", *options)
        deploy(api, home, "--pool", "big", *options, "--limit", "3")
        found, (crash,) = asyncio.run(read())
        pool = asyncio.run(read_pool())
    assert set(found) == {name for entry in FLOWS for name in (entry, f"{entry}-big")}
    own, other = found["pipeline"], found["pipeline-big"]
    assert own.work_pool_name == "alpro" and list(own.pull_steps[0]) == ["prefect.deployments.steps.set_working_directory"]
    clone = {"repository": "https://host/a.git", "branch": "next", "clone_directory_name": "alpro"}
    assert other.work_pool_name == "big" and other.pull_steps == [{"prefect.deployments.steps.git_clone": clone}]
    assert other.entrypoint == own.entrypoint and other.parameter_openapi_schema == own.parameter_openapi_schema
    assert other.job_variables["image"] == "registry/alpro:1" and other.job_variables["env"]["ALPRO_CLONE"] == "1"
    assert pool.type == "docker" and pool.concurrency_limit == 3
    assert pool.base_job_template["job_configuration"]["container_create_kwargs"]["cap_drop"] == ["ALL"]
    assert set(crash.trigger.match_related["prefect.resource.id"]) == {f"prefect.deployment.{one.id}" for one in found.values()}
