"""deploy/compose.yaml: valid, pinned, on loopback by default, checked, and without a secret in it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

import alpro
from flows.team import compose

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text()


def without_variables(value: Any) -> Any:
    """Return the file as compose reads it without environment variables: `${NAME:-default}` is the default, `$$` is `$`."""
    if isinstance(value, dict):
        return {key: without_variables(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_variables(inner) for inner in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value).replace("$$", "$")


FILE = without_variables(yaml.safe_load(TEXT))
SERVICES = FILE["services"]


def test_every_image_has_a_version_and_ours_is_this_one() -> None:
    images = {service["image"] for service in SERVICES.values()}
    assert f"alpro:{alpro.__version__}" in images
    assert [image for image in images if not re.search(r":\d+(\.\d+)+", image)] == []


def test_only_the_proxy_publishes_ports_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["nginx"]
    assert all(port.startswith("127.0.0.1:") for port in published["nginx"])
    listened = set(re.findall(r"listen (\d+) ssl", (DEPLOY / "nginx.conf").read_text()))
    assert listened == {port.split(":")[-1] for port in published["nginx"]}


def test_every_server_has_a_health_check_and_is_waited_for() -> None:
    servers = {name: service for name, service in SERVICES.items() if service.get("restart") != "no"}
    assert [name for name, service in servers.items() if "healthcheck" not in service] == []
    for name, service in SERVICES.items():
        for other, condition in service.get("depends_on", {}).items():
            ends = SERVICES[other].get("restart") == "no"
            assert condition == {"condition": "service_completed_successfully" if ends else "service_healthy"}, (name, other)


def test_our_containers_have_no_rights_to_lose() -> None:
    ours = {name: service for name, service in SERVICES.items() if service["image"].startswith("alpro:")}
    assert len(ours) == 5
    for name, service in ours.items():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name


def test_pages_of_mlflow_answer_under_the_name_of_the_host() -> None:
    """MLflow refuses changes, and searches, that come from a page whose address it was not told."""
    from mlflow.server.security_utils import is_allowed_host_header, should_block_cors_request  # here, as it takes seconds

    words = shlex.split(SERVICES["mlflow"]["command"][-1].replace("$ALPRO_HOST", "team.example"))
    hosts, origins = (words[words.index(option) + 1].split(",") for option in ("--allowed-hosts", "--cors-allowed-origins"))
    assert is_allowed_host_header(hosts, "team.example:5000") and not is_allowed_host_header(hosts, "other.example:5000")
    assert not should_block_cors_request("https://team.example:5000", "POST", origins)
    assert should_block_cors_request("https://other.example:5000", "POST", origins)


def test_worker_reports_that_it_still_asks_for_runs() -> None:
    """A look for its process would find the command of the health check, and a worker that hangs."""
    worker = SERVICES["worker"]
    assert "--with-healthcheck" in worker["command"][-1]
    assert worker["environment"]["PREFECT_WORKER_WEBSERVER_HOST"] == "127.0.0.1"
    assert "http://127.0.0.1:8080/health" in worker["healthcheck"]["test"][-1]
    assert [name for name, service in SERVICES.items() if "/proc/" in str(service.get("healthcheck"))] == []


def test_all_names_exist_and_all_secrets_are_files_that_the_command_makes(tmp_path: Path) -> None:
    compose.make_secrets(tmp_path)
    made = {file.name for file in (tmp_path / "secrets").iterdir()}
    assert {Path(secret["file"]).name for secret in FILE["secrets"].values()} <= made
    assert all(secret["file"].startswith("./secrets/") for secret in FILE["secrets"].values())
    assert [config["file"] for config in FILE["configs"].values() if not (DEPLOY / config["file"]).is_file()] == []
    for name, service in SERVICES.items():
        assert set(service.get("secrets", ())) <= set(FILE["secrets"]), name
        command = " ".join(service.get("command", ())) + str(service.get("environment", ""))
        assert set(re.findall(r"/run/secrets/(\w+)", command)) <= set(service.get("secrets", ())), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in FILE["volumes"] or (DEPLOY / source).exists(), (name, source)


def test_no_secret_is_in_the_repository() -> None:
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text()
    assert "deploy/secrets" in (ROOT / ".dockerignore").read_text()
    assert not re.search(r"PASSWORD\w*: (?!/run/secrets/)\S", TEXT)


def test_file_meets_the_compose_specification() -> None:
    """Needs `pip install compose-spec` (0.2.1), which is not in the lock because only this test uses it."""
    specification = pytest.importorskip("compose_spec")
    read = specification.PyCompose.from_yaml(yaml.safe_dump(FILE))
    read.validate()
    assert set(read.service_names()) == set(SERVICES)
    with pytest.raises(ValueError, match="healthcheks"):
        specification.PyCompose.from_yaml(yaml.safe_dump(FILE).replace("healthcheck:", "healthcheks:"))
