"""The services of `make team` and their order: PostgreSQL and S3, then MLflow and Prefect, then a worker."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from alpro.tracking.store import QUIET
from flows.artifacts import MLFLOW_PAGE
from flows.commands import environment
from flows.local_server import mlflow_hosts, page_origins
from flows.server import server_module
from flows.team import postgres, s3
from flows.team.layout import ADMIN, BUCKETS, HOST, Team, TeamError, client_variables, make_secrets
from flows.team.supervisor import Service, Supervisor

WORKER = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "alpro", "--name", "team"]


def answers(url: str) -> bool:
    """Return True if a local server answers, also with an HTTP error."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        direct.open(url, timeout=5).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except OSError:
        return False
    return True


def storage(team: Team) -> list[Service]:
    """Return PostgreSQL and S3."""
    ready, stop = partial(postgres.is_ready, team), partial(postgres.stop, team)
    return [
        Service("postgres", postgres.command(team), ready, folder=team.folder, stop=stop),  # where its user can enter
        Service("s3", s3.command(team), lambda: s3.is_ready(team), folder=team.folder / "s3"),
    ]


def mlflow(team: Team) -> Service:
    """Return MLflow with its records in PostgreSQL, its artifacts in S3, and a password."""
    words = ["--host", HOST, "--port", str(team.ports.mlflow), *mlflow_hosts(), "--workers", "1", "--app-name", "basic-auth"]
    stores = [
        "--backend-store-uri",
        team.database_uri("mlflow", "psycopg"),
        "--artifacts-destination",
        f"s3://{BUCKETS['mlflow']}",
    ]
    variables = {
        **QUIET,
        **s3.variables(team, "mlflow"),
        "PGPASSFILE": str(team.secret_file("pgpass")),
        "MLFLOW_AUTH_CONFIG_PATH": str(team.secret_file("mlflow_auth.ini")),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": team.secret("mlflow_flask_key"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves a dozen processes for a feature that is not used
    }
    command = [sys.executable, "-m", "mlflow", "server", *words, *stores]
    return Service("mlflow", command, lambda: answers(f"{team.address('mlflow')}/health"), variables)


def prefect(team: Team) -> Service:
    """Return Prefect's server with its records in PostgreSQL and a password."""
    variables = {
        "PGPASSFILE": str(team.secret_file("pgpass")),
        "PREFECT_API_DATABASE_CONNECTION_URL": team.database_uri("prefect", "asyncpg"),
        "PREFECT_SERVER_API_AUTH_STRING": f"{ADMIN}:{team.secret('prefect')}",
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(team.ports.prefect),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(page_origins(team.ports.prefect)),
    }
    command = [sys.executable, "-m", *server_module(team.ports.prefect, "info")]
    return Service("prefect", command, lambda: answers(f"{team.address('prefect')}/api/health"), variables)


def worker(team: Team) -> Service:
    """Return Prefect's worker, which runs flows in this checkout and uses the team's MLflow."""
    return Service("worker", WORKER, lambda: True, worker_variables(team))


def worker_variables(team: Team) -> dict[str, str]:
    """Return the environment variables of the worker and its runs.

    Prefect's server answers 500 while PostgreSQL is away; its clients then ask again for a minute.
    """
    return {**client_variables(team), MLFLOW_PAGE: team.address("mlflow"), "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500", **QUIET}


@contextmanager
def storage_running(team: Team) -> Iterator[Supervisor]:
    """Run PostgreSQL and S3 with their databases and buckets until the block ends. Raises TeamError."""
    make_secrets(team)
    postgres.create(team)
    s3.create(team)
    supervisor = Supervisor(team.folder)
    try:
        supervisor.start(*storage(team))
        postgres.create_databases(team)
        s3.create_buckets(s3.client(team))
        yield supervisor
    finally:
        supervisor.stop()


def start_services(team: Team, supervisor: Supervisor, checkout: Path) -> None:
    """Start MLflow and Prefect, make the deployments, and start the worker. Raises TeamError."""
    supervisor.start(mlflow(team), prefect(team))
    variables = {**environment(), **worker_variables(team)}
    words = [sys.executable, "-m", "flows.deploy"]
    made = subprocess.run(words, cwd=checkout, env=variables, capture_output=True, text=True)
    supervisor.log("deploy").write_text(made.stdout + made.stderr)
    if made.returncode:
        last = (made.stderr.strip().splitlines() or ["no output"])[-1]
        raise TeamError(f"deployments: {last}; see the log {supervisor.log('deploy')}")
    supervisor.start(worker(team))
