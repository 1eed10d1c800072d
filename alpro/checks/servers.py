"""Checks of servers that a team shares: each writes something small, reads it back and removes it.

A store of this machine alone (SQLite, an embedded Prefect) needs none of this, and without a server nothing is checked.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from alpro.checks.findings import ANSWER_S, Finding
from alpro.lineage import main_checkout

TAG = "alpro.doctor"
SERVICES = "services.json"  # written by `make team`: ports, and the file of passwords

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
        elif any(
            word in problem for word in ("Forbidden", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403")
        ):
            remedy = f"the key is wrong or may not write: `dvc remote modify --local {name} credentialpath FILE`"
    if problems:
        return Finding("DVC remotes", "fail", "; ".join(problems), remedy)
    return Finding("DVC remotes", "ok", f"{', '.join(name for name, _ in remotes)} (wrote and read an object)")


def check_postgres(root: Path) -> Finding | None:
    """Check that a table can be written in the PostgreSQL of `make team`, and read; None if this checkout has none."""
    folder = Path(os.environ.get("ALPRO_TEAM") or main_checkout(root) / ".team")
    try:
        services = json.loads((folder / SERVICES).read_text(encoding="utf-8"))
        port, host, user, passwords = (services["ports"]["postgres"], services["host"], services["admin"], services["pgpass"])
    except (OSError, ValueError, KeyError):
        return None
    psql = shutil.which("psql")
    if psql is None:
        return Finding(
            "PostgreSQL", "warn", "no psql to ask it with", "install PostgreSQL's client (Debian: postgresql-client)"
        )
    text = secrets.token_hex(8)
    script = f"CREATE TEMP TABLE doctor (t text); INSERT INTO doctor VALUES ('{text}'); SELECT t FROM doctor;"
    options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--no-password", "--set", "ON_ERROR_STOP=1"]
    words = [psql, *options, "--host", host, "--port", str(port), "--username", user, "--dbname", "postgres"]
    answer = subprocess.run(
        words, input=script, env=os.environ | {"PGPASSFILE": passwords}, capture_output=True, text=True, timeout=ANSWER_S
    )
    where = f"port {port} of {host}"
    if answer.returncode == 0 and answer.stdout.strip() == text:
        return Finding("PostgreSQL", "ok", f"{where} (wrote and read a row)")
    last = (answer.stderr.strip().splitlines() or ["no answer"])[-1]
    return Finding(
        "PostgreSQL", "fail", f"{where}: {last}", "`make team` starts it; its log is logs/postgres.log in its folder"
    )


def _run(script: str, root: Path, *arguments: str) -> str | None:
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
            env=os.environ | quiet,
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
