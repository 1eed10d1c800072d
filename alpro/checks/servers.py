"""Checks of servers that a team shares: each writes something small, reads it back and removes it.

A store of this machine alone (SQLite, an embedded Prefect) needs none of this, and without a server nothing is checked.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alpro.checks.findings import ANSWER_S, Finding
from alpro.lineage import main_checkout

TAG = "alpro.doctor"
SERVICES = "services.json"  # written by `make team`: ports, and the files of passwords and keys
CLIENTS_OWN = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")  # go before a file of keys
# error of S3, or its text, which is all that DVC shows -> what to do
REMEDIES = {
    "InvalidAccessKeyId|access key ID you provided": "the server does not know this key; use another one",
    "SignatureDoesNotMatch|signature we calculated": "the secret key is wrong; use the right one",
    "NoSuchBucket|bucket does not exist": "the bucket is missing; create it, `make team` does so at its start",
    "AccessDenied|Access Denied|Forbidden": "this key may not write, or the bucket is missing; give its user the right",
    "InternalError|internal error": "the server cannot store it: look for a full disk, a bucket's quota, and in its log",
    "Could not connect|Cannot connect": "start the server",
}

# Run in processes of their own: a client that waits for a server that does not answer can be ended, and each prints one line.
PREFECT = """
import asyncio, sys
from prefect import get_client
from prefect.client.schemas.actions import VariableCreate

async def main(name, value):
    async with get_client() as client:
        created = await client.create_variable(VariableCreate(name=name, value=value))
        try:
            read = await client.read_variable_by_name(name)
            if read is None or read.value != value:
                raise RuntimeError(f"wrote {value}, read {read}")
        finally:
            await client.delete_variable_by_name(name)

asyncio.run(main(*sys.argv[1:]))
"""
S3 = """
import sys
import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

address, region, bucket, text = sys.argv[1:]
config = Config(s3={"addressing_style": "path"}, proxies={}, connect_timeout=5, read_timeout=10, retries={"max_attempts": 1})
s3 = boto3.client("s3", endpoint_url=address, region_name=region, config=config)
name = f"alpro-doctor-{text}"
try:
    s3.put_object(Bucket=bucket, Key=name, Body=text.encode())
    read = s3.get_object(Bucket=bucket, Key=name)["Body"].read()
    s3.delete_object(Bucket=bucket, Key=name)
except ClientError as error:
    code = error.response["Error"]["Code"]
    if code == "AccessDenied" and bucket not in [entry["Name"] for entry in s3.list_buckets()["Buckets"]]:
        code = "NoSuchBucket"  # a key for this bucket alone is refused if there is none
    sys.exit(f"{code} at {error.operation_name}")
except BotoCoreError as error:
    sys.exit(str(error))
if read != text.encode():
    sys.exit("read something else than was written")
"""
DVC = """
import sys
from dvc.repo import Repo

name, text = sys.argv[1:]
with Repo() as repo:
    odb = repo.cloud.get_remote_odb(name)
    path = odb.fs.join(odb.path, f"alpro-doctor-{text}")
    odb.fs.makedirs(odb.path, exist_ok=True)
    odb.fs.pipe_file(path, text.encode())
    try:
        if odb.fs.cat_file(path) != text.encode():
            raise RuntimeError("read something else than was written")
    finally:
        odb.fs.remove(path)
"""


def write_and_read_mlflow(root: Path) -> str:
    """Write and read a tag of the experiment and an artifact; returns what worked. Raises TrackingError."""
    from alpro.tracking import store

    text = secrets.token_hex(8)
    with store.opened(root) as opened, tempfile.TemporaryDirectory() as temporary:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        opened.client.set_experiment_tag(opened.experiment, TAG, text)
        experiment = opened.client.get_experiment(opened.experiment)
        if experiment.tags.get(TAG) != text:
            raise OSError(f"wrote the tag {TAG}={text}, read {experiment.tags.get(TAG)}")
        repository = get_artifact_repository(experiment.artifact_location)
        name = f"doctor-{text}.txt"
        file = Path(temporary) / name
        file.write_text(text)
        repository.log_artifact(str(file))
        try:
            read = Path(repository.download_artifacts(name, tempfile.mkdtemp(dir=temporary))).read_text()
        finally:
            repository.delete_artifacts(name)
        if read != text:
            raise OSError("an artifact differs from the one that was written")
    return "wrote and read a tag and an artifact"


def check_prefect_server(root: Path, version: str) -> Finding:
    """Check that a variable can be written to the server in PREFECT_API_URL, and read."""
    address = os.environ["PREFECT_API_URL"]
    name = f"alpro_doctor_{secrets.token_hex(4)}"
    problem = _run(PREFECT, root, name, "written by alpro doctor")
    detail = f"{version}, server {address}"
    if problem is None:
        return Finding("Prefect", "ok", f"{detail} (wrote and read a variable)")
    remedy = "start the server, or unset PREFECT_API_URL"
    if "401" in problem:
        remedy = "set PREFECT_API_AUTH_STRING to USER:PASSWORD of the server"
    return Finding("Prefect", "fail", f"{detail}: {problem}", remedy)


def check_dvc_remotes(root: Path) -> Finding | None:
    """Check that an object can be written to each DVC remote, and read; None if there is no remote."""
    if importlib.util.find_spec("dvc") is None:
        return None
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "remote", "list"], cwd=root, capture_output=True, text=True, timeout=ANSWER_S
    )
    remotes = [line.split(maxsplit=1) for line in listed.stdout.splitlines() if line.strip()]
    if listed.returncode or not remotes:
        return None
    problems, remedy = [], "`dvc remote modify` changes its settings; `dvc remote remove NAME` removes it"
    for name, address in remotes:
        where = address.split("(default)")[0].strip()
        problem = _run(DVC, root, name, secrets.token_hex(8))
        if problem is None:
            continue
        problems.append(f"{name} ({where}): {problem}")
        scheme = where.partition("://")[0]
        if "is supported, but requires" in problem or "No module" in problem:
            remedy = f"pip install 'alpro[{scheme}]'"
        elif found := _s3_remedy(problem):
            remedy = f"{found}; `dvc remote modify --local {name} credentialpath FILE` sets another key"
    if problems:
        return Finding("DVC remotes", "fail", "; ".join(problems), remedy)
    return Finding("DVC remotes", "ok", f"{', '.join(name for name, _ in remotes)} (wrote and read an object)")


def check_s3(root: Path) -> Finding | None:
    """Check that MLflow and DVC can write to their buckets in the S3 of `make team`, and read; None without one."""
    services = team_services(root)
    if services is None or "buckets" not in services:  # written by an earlier version
        return None
    address = f"http://{services['host']}:{services['ports']['s3']}"
    without = {name: value for name, value in os.environ.items() if name not in CLIENTS_OWN}
    problems, remedies = [], dict[str, None]()
    for bucket, keys in services["buckets"].items():
        variables = {**without, "AWS_SHARED_CREDENTIALS_FILE": keys, "AWS_EC2_METADATA_DISABLED": "true"}
        problem = _run(S3, root, address, services["region"], bucket, secrets.token_hex(8), variables=variables)
        if problem is not None:
            problems.append(f"bucket {bucket}: {problem}")
            remedies[_s3_remedy(problem) or "its log is logs/s3.log in the folder of `make team`"] = None
    if problems:
        return Finding("S3", "fail", f"{address}, {'; '.join(problems)}", "; ".join(remedies))
    return Finding("S3", "ok", f"{address}, {', '.join(services['buckets'])} (wrote and read an object)")


def _s3_remedy(problem: str) -> str | None:
    return next((remedy for signs, remedy in REMEDIES.items() if re.search(signs, problem)), None)


def team_services(root: Path) -> dict[str, Any] | None:
    """Return the ports and files of the `make team` of this checkout, or None if there is none."""
    folder = Path(os.environ.get("ALPRO_TEAM") or main_checkout(root) / ".team")
    try:
        services: dict[str, Any] = json.loads((folder / SERVICES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return services


def check_postgres(root: Path) -> Finding | None:
    """Check that a table can be written in the PostgreSQL of `make team`, and read; None if this checkout has none."""
    services = team_services(root)
    if services is None:
        return None
    psql = shutil.which("psql")
    if psql is None:
        return Finding(
            "PostgreSQL", "warn", "no psql to ask it with", "install PostgreSQL's client (Debian: postgresql-client)"
        )
    text = secrets.token_hex(8)
    script = f"CREATE TEMP TABLE doctor (t text); INSERT INTO doctor VALUES ('{text}'); SELECT t FROM doctor;"
    options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--no-password", "--set", "ON_ERROR_STOP=1"]
    host, port = services["host"], services["ports"]["postgres"]
    where = ["--host", host, "--port", str(port), "--username", services["admin"], "--dbname", "postgres"]
    variables = os.environ | {"PGPASSFILE": services["pgpass"], "PGCONNECT_TIMEOUT": "10"}
    try:
        answer = subprocess.run(
            [psql, *options, *where], input=script, env=variables, capture_output=True, text=True, timeout=ANSWER_S
        )
        problem = (answer.stderr.strip().splitlines() or ["no answer"])[0].removeprefix("psql: error: ")  # hints follow
    except subprocess.TimeoutExpired:
        answer, problem = None, f"no answer within {ANSWER_S} s"
    if answer is not None and answer.returncode == 0 and answer.stdout.strip() == text:
        return Finding("PostgreSQL", "ok", f"port {port} of {host} (wrote and read a row)")
    remedy = "`make team` starts it; its log is logs/postgres.log in its folder"
    return Finding("PostgreSQL", "fail", f"port {port} of {host}: {problem}", remedy)


def _run(script: str, root: Path, *arguments: str, variables: Mapping[str, str] = os.environ) -> str | None:
    """Run a script in a process of its own; return its last line if it fails, else None."""
    quiet = {
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLIENT_MAX_RETRIES": "0",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
    }
    try:
        answer = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=root,
            env={**variables, **quiet},
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {ANSWER_S} s"
    if answer.returncode == 0:
        return None
    lines = [line for line in answer.stderr.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {answer.returncode}"
