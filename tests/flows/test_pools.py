"""Work pools with clones: their options, and the jobs that Docker's and Kubernetes's workers make of them."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
import yaml

import alpro
from flows import pools

from .conftest import REPOSITORY

URL = "https://host/alpro.git"
PASSWORD = "a-word-that-nobody-guesses"
POOL_FOLDER = "/home/alpro/.cache/alpro/pool"


def parse(*words: str) -> pools.Pool | None:
    parser = argparse.ArgumentParser()
    pools.add_options(parser)
    return pools.from_options(parser.parse_args(words))


def test_without_options_there_is_no_other_pool() -> None:
    assert parse() is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repository", URL], "--repository: name the pool with --pool"),
        (["--pool", "big"], "--pool big: name the repository that its workers clone with --repository"),
        (["--pool", "big", "--repository", "https://me:word@host/a.git"], "shown in Prefect's pages; use --secret"),
        (["--pool", "big", "--repository", "https://token@host/a.git"], "shown in Prefect's pages; use --secret"),
        (["--pool", "big", "--repository", URL, "--image", "x"], "--image: a process pool has no image"),
        (["--pool", "big", "--repository", URL, "--limit", "0"], "--limit 0: must be at least 1"),
        (["--pool", "big", "--repository", URL, "--env", "A"], "--env A: must be NAME=VALUE"),
    ],
)
def test_options_that_do_not_fit_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        parse(*words)


def test_a_secret_is_named_and_never_given() -> None:
    for word in (f"MLFLOW_TRACKING_PASSWORD={PASSWORD}", f"MLFLOW_TRACKING_URI=http://me:{PASSWORD}@host"):
        with pytest.raises(ValueError, match="would be shown in Prefect's pages; name a Secret block instead") as raised:
            parse("--pool", "big", "--repository", URL, "--env", word)
        assert PASSWORD not in str(raised.value)
    given = "MLFLOW_TRACKING_PASSWORD={{ prefect.blocks.secret.mlflow }}"
    pool = parse("--pool", "big", "--repository", URL, "--env", given, "--env", "MLFLOW_TRACKING_URI=http://host:5000")
    assert pool is not None
    env = pool.job_variables(pools.definition(REPOSITORY, pool))["env"]
    assert env["ALPRO_CLONE"] == "1" and env["MLFLOW_TRACKING_PASSWORD"] == "{{ prefect.blocks.secret.mlflow }}"


def test_pull_step_clones_and_names_the_secret() -> None:
    pool = pools.Pool("big", "process", URL, branch="next")
    step = asyncio.run(pool.storage()).to_pull_step()
    assert step == {
        "prefect.deployments.steps.git_clone": {"repository": URL, "branch": "next", "clone_directory_name": "alpro"}
    }


def test_images_have_this_version_and_templates_a_default_for_what_is_needed() -> None:
    for kind in ("docker", "kubernetes"):
        entry = pools.definition(REPOSITORY, pools.Pool("x", kind, URL))
        template = yaml.safe_load((REPOSITORY / entry["template"]).read_text())
        assert entry["job_variables"]["image"] == f"alpro:{alpro.__version__}"
        assert set(entry["job_variables"]) <= set(template["variables"]["properties"])


def render(kind: str, configuration: Any, monkeypatch: pytest.MonkeyPatch, **variables: Any) -> Any:
    """Return the job of a run, as a worker with a password for Prefect makes it."""
    from prefect.client.schemas.objects import Flow, FlowRun
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    pool = pools.Pool("big", kind, URL, env={"MLFLOW_TRACKING_URI": "http://mlflow:5000"})
    entry = pools.definition(REPOSITORY, pool)
    template = yaml.safe_load((REPOSITORY / entry["template"]).read_text())
    flow = Flow(name="pipeline", labels={})
    run = FlowRun(flow_id=flow.id, name="hairy-emu", deployment_id=uuid4(), labels={})
    values = pool.job_variables(entry) | variables
    with temporary_settings({PREFECT_API_URL: "http://server:4200/api", PREFECT_API_AUTH_STRING: f"me:{PASSWORD}"}):
        job = asyncio.run(configuration.from_template_and_values(template, values, client=cast(Any, object())))
        job.prepare_for_flow_run(run, flow=flow)
    return job


def test_kubernetes_job_is_valid_and_has_no_rights_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    worker = pytest.importorskip("prefect_kubernetes.worker")
    job = render(
        "kubernetes", worker.KubernetesWorkerJobConfiguration, monkeypatch,
        gpus=8, memory_request="64Gi", shared_memory="16Gi", node_selector={"pool": "gpu"}, namespace="training",
    )  # fmt: skip
    manifest = json.loads(json.dumps(job.job_manifest))
    validate.validate(manifest, validate.latest_version(), strict=True)
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"][0].endswith("/python") and container["args"][1:] == ["-m", "prefect", "flow-run", "execute"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container["resources"] == {"requests": {"memory": "64Gi"}, "limits": {"nvidia.com/gpu": 8}}
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in pod["volumes"]
    assert {"name": "pool", "mountPath": POOL_FOLDER} in container["volumeMounts"]
    assert container["envFrom"] == [{"secretRef": {"name": "alpro", "optional": True}}]
    env = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}
    assert env["ALPRO_MACHINE"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}, "pods of a node share its slots"
    assert env["ALPRO_CLONE"] == "1" and env["MLFLOW_TRACKING_URI"] == "http://mlflow:5000" and "PREFECT__FLOW_RUN_ID" in env


def test_kubernetes_job_without_further_variables_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    worker = pytest.importorskip("prefect_kubernetes.worker")
    manifest = json.loads(json.dumps(render("kubernetes", worker.KubernetesWorkerJobConfiguration, monkeypatch).job_manifest))
    validate.validate(manifest, validate.latest_version(), strict=True)


def test_kubernetes_worker_puts_prefect_s_password_into_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the settings that docs/flows.md names."""
    worker = pytest.importorskip("prefect_kubernetes.worker")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_NAME", "alpro")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_KEY", "PREFECT_API_AUTH_STRING")
    job = render("kubernetes", worker.KubernetesWorkerJobConfiguration, monkeypatch)
    assert PASSWORD in json.dumps(job.job_manifest), "the worker replaces it before it sends the job"

    class Client:
        """Keeps the job instead of sending it to a cluster."""

        async def create_namespaced_job(self, namespace: str, body: Any) -> Any:
            self.sent = body
            return body

    sent = Client()
    monkeypatch.setattr(worker, "BatchV1Api", lambda client: sent)
    kubernetes = object.__new__(worker.KubernetesWorker)
    asyncio.run(kubernetes._create_job(job, cast(Any, object())))
    assert PASSWORD not in json.dumps(sent.sent)
    env = {entry["name"]: entry for entry in sent.sent["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["PREFECT_API_AUTH_STRING"]["valueFrom"] == {"secretKeyRef": {"name": "alpro", "key": "PREFECT_API_AUTH_STRING"}}


def test_docker_container_has_no_rights_and_the_pool_s_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = pytest.importorskip("prefect_docker.worker")
    from docker.models.containers import _create_container_args

    gpus = [{"driver": "nvidia", "count": -1, "capabilities": [["gpu"]]}]
    job = render(
        "docker", worker.DockerWorkerJobConfiguration, monkeypatch, mem_limit="16g", shared_memory="8g", device_requests=gpus
    )
    docker = object.__new__(worker.DockerWorker)
    arguments = _create_container_args({**docker._build_container_settings(cast(Any, None), job), "version": "1.47"})
    host = arguments["host_config"]
    assert arguments["user"] == "10001:10001" and host["CapDrop"] == ["ALL"] and not host.get("Privileged")
    assert host["SecurityOpt"] == ["no-new-privileges:true"] and host["Init"] is True and host["AutoRemove"] is True
    assert host["Memory"] == 16 * 2**30 and host["ShmSize"] == 8 * 2**30
    assert host["DeviceRequests"][0]["Count"] == -1
    assert host["Binds"] == [f"alpro-pool:{POOL_FOLDER}"]
    assert arguments["command"].endswith("/python -m prefect flow-run execute")
    assert arguments["environment"]["ALPRO_CLONE"] == "1" and "PREFECT__FLOW_RUN_ID" in arguments["environment"]


def test_image_has_the_pool_s_folder_for_its_user() -> None:
    """A new volume gets the owner of the folder in the image."""
    text = Path(REPOSITORY / "Dockerfile").read_text()
    assert POOL_FOLDER in text.partition("AS run")[2]
