"""Upgrades the databases of the team servers to the installed MLflow and Prefect, after a backup."""

from __future__ import annotations

from collections.abc import Iterator

from flows.team import backup, postgres
from flows.team.layout import Team
from flows.team.migrate import upgrade_schema
from flows.team.servers import storage_running

REVISIONS = {"mlflow": "alembic_version", "mlflow_auth": "alembic_version_auth", "prefect": "alembic_version"}


def revision(team: Team, database: str) -> str:
    """Return the revision of a database's tables; `none` if it has no tables yet."""
    table = REVISIONS[database]
    if not postgres.sql(team, f"SELECT 1 FROM information_schema.tables WHERE table_name = '{table}'", database):
        return "none"
    return (postgres.sql(team, f"SELECT version_num FROM {table}", database) or ["none"])[0]


def upgrade(team: Team) -> Iterator[str]:
    """Make a backup, then upgrade all databases; yields one line on each. Raises TeamError if the servers run."""
    team.lock().release()  # fail before the backup is made
    yield backup.save(team)
    with team.lock(), storage_running(team):
        for database in REVISIONS:
            before = revision(team, database)
            upgrade_schema(team, database)
            after = revision(team, database)
            yield f"{database}: {f'revision {after}, unchanged' if after == before else f'revision {before} -> {after}'}"
