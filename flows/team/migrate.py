"""Copies the embedded stores of a checkout to empty team servers: MLflow with all runs, versions, aliases and gate records, and
Prefect with its runs, deployments and settings. Identifiers and times stay; the embedded stores are only read.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro.lineage import main_checkout
from alpro.tracking import store
from flows.commands import environment
from flows.team import postgres, s3
from flows.team.layout import ADMIN, BUCKETS, HOST, Team, TeamError
from flows.team.servers import storage_running

if TYPE_CHECKING:
    from sqlalchemy import Engine, MetaData

BATCH_ROWS = 1000
LOCATIONS = {  # columns that hold the address of an artifact
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
USED = {"mlflow": ("runs", "registered_models", "logged_models"), "prefect": ("flow_run", "deployment")}


def migrate(team: Team, checkout: Path) -> Iterator[str]:
    """Copy both stores; yields one line on each. Raises TeamError, before anything is written, if the servers hold records."""
    home = main_checkout(checkout)
    sources = {"mlflow": home / ".mlflow" / "mlflow.db", "prefect": home / ".prefect" / "prefect.db"}
    found = {database: path for database, path in sources.items() if path.exists()}
    if not found:
        raise TeamError(f"{home}: no embedded store (.mlflow/mlflow.db, .prefect/prefect.db); there is nothing to migrate")
    with team.lock(), storage_running(team), tempfile.TemporaryDirectory() as temporary:
        for database in found:
            upgrade_schema(team, database)
            check_empty(team, database)
        for database, path in found.items():
            copy = Path(temporary) / f"{database}.db"
            with closing(sqlite3.connect(path)) as original, closing(sqlite3.connect(copy)) as target:
                original.backup(target)
            upgrade_schema(team, database, copy)
            counts = copy_tables(metadata_of(database), sqlite_engine(copy), admin_engine(team, database))
            if database == "mlflow":
                files = move_artifacts(team, path.parent / "artifacts")
                versions = counts.get("model_versions", 0)
                yield f"MLflow: {counts['runs']} runs, {versions} model versions, {files} artifacts copied from {path}"
            else:
                yield f"Prefect: {counts['flow_run']} flow runs, {counts['deployment']} deployments copied from {path}"


def upgrade_schema(team: Team, database: str, sqlite: Path | None = None) -> None:
    """Bring the tables of a database, or of a SQLite file, to the installed version. Raises TeamError."""
    uri = store.sqlite_uri(sqlite) if sqlite else team.database_uri(database, "psycopg")
    variables = {**store.QUIET, "PGPASSFILE": str(team.secret_file("pgpass"))}
    if database == "mlflow":
        words = ["mlflow", "db", "upgrade", uri]
    elif database == "mlflow_auth":
        words = ["mlflow.server.auth", "db", "upgrade", "--url", uri]
    else:
        uri = f"sqlite+aiosqlite:///{sqlite}" if sqlite else team.database_uri(database, "asyncpg")
        variables["PREFECT_API_DATABASE_CONNECTION_URL"] = uri
        words = ["prefect", "server", "database", "upgrade", "--yes"]
    _run(database, [sys.executable, "-m", *words], variables)


def _run(name: str, command: list[str], variables: Mapping[str, str]) -> None:
    done = subprocess.run(command, env={**environment(), **variables}, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no output"]
        raise TeamError(f"{name}: `{' '.join(command[2:5])}` failed: {lines[-1][:300]}")


def check_empty(team: Team, database: str) -> None:
    """Raise TeamError if a database has records of its own."""
    for table in USED[database]:
        if postgres.sql(team, f"SELECT 1 FROM {table} LIMIT 1", database):
            problem = (
                f"{database} on port {team.ports.postgres}: its table {table} is not empty, and a migration would replace it"
            )
            raise TeamError(f"{problem}; move {team.folder} away, or fill this store by `alpro track sync` instead")


def metadata_of(database: str) -> MetaData:
    """Return the tables of MLflow or Prefect, with the types of their columns."""
    if database == "mlflow":
        store.quiet_mlflow()
        import mlflow.store.model_registry.dbmodels.models
        import mlflow.store.tracking.dbmodels.models
        import mlflow.store.workspace.dbmodels.models  # noqa: F401
        from mlflow.store.db.base_sql_model import Base

        tables: MetaData = Base.metadata
        return tables
    from prefect.server.database import orm_models

    return orm_models.Base.metadata


def sqlite_engine(path: Path) -> Engine:
    """Return an engine on a SQLite file."""
    import sqlalchemy

    return sqlalchemy.create_engine(f"sqlite:///{path}")


def admin_engine(team: Team, database: str) -> Engine:
    """Return an engine on a database, with the rights to load tables in any order."""
    import sqlalchemy

    uri = f"postgresql+psycopg://{ADMIN}@{HOST}:{team.ports.postgres}/{database}"
    return sqlalchemy.create_engine(uri, connect_args={"passfile": str(team.secret_file("pgpass"))})


def copy_tables(metadata: MetaData, source: Engine, target: Engine) -> dict[str, int]:
    """Replace the content of all tables of the target in one transaction; return the number of rows of each."""
    from sqlalchemy import inspect, select, text

    present = set(inspect(source).get_table_names()) & set(inspect(target).get_table_names())
    tables = [table for table in metadata.tables.values() if table.name in present]
    counts = {}
    with source.connect() as reader, target.begin() as writer:
        writer.execute(text("SET LOCAL session_replication_role = replica"))  # foreign keys are checked by the source
        quoted = [writer.dialect.identifier_preparer.quote(table.name) for table in tables]
        writer.execute(text(f"TRUNCATE {', '.join(quoted)} CASCADE"))
        for table in tables:
            counts[table.name] = 0
            columns = [column for column in table.columns if column.computed is None]
            for rows in reader.execute(select(*columns)).mappings().partitions(BATCH_ROWS):
                writer.execute(table.insert(), [dict(row) for row in rows])
                counts[table.name] += len(rows)
            for column in table.primary_key.columns:
                if column.autoincrement and column.type.python_type is int:
                    _advance_sequence(writer, table.name, column.name)
    return counts


def _advance_sequence(writer: Any, table: str, column: str) -> None:
    """Let the numbers that the target gives to new rows follow the copied ones."""
    from sqlalchemy import text

    sequence = writer.execute(
        text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table, "column": column}
    ).scalar()
    if sequence:
        last = f'SELECT setval(:sequence, coalesce((SELECT max("{column}") FROM "{table}"), 0) + 1, false)'
        writer.execute(text(last), {"sequence": sequence})


def move_artifacts(team: Team, files: Path) -> int:
    """Upload the embedded store's artifacts to S3 and let the records name them there; return their number."""
    number = postgres.sql(team, "SELECT max(experiment_id) FROM experiments WHERE name <> 'Default'", "mlflow")
    folder = number[0] if number and number[0] else "0"
    client, count = s3.client(team), 0
    for path in sorted(files.rglob("*")) if files.is_dir() else ():
        if path.is_file():
            client.upload_file(str(path), BUCKETS["mlflow"], f"{folder}/{path.relative_to(files).as_posix()}")
            count += 1
    for old in dict.fromkeys((str(files), files.as_uri())):
        for table, columns in LOCATIONS.items():
            for column in columns:
                _rename_prefix(team, table, column, old, f"mlflow-artifacts:/{folder}")
    return count


def _rename_prefix(team: Team, table: str, column: str, old: str, new: str) -> None:
    quoted = "'" + old.replace("'", "''") + "'"
    postgres.sql(
        team,
        f"UPDATE {table} SET {column} = '{new}' || substr({column}, {len(old) + 1}) "
        f"WHERE {column} = {quoted} OR substr({column}, 1, {len(old) + 1}) = {quoted} || '/'",
        "mlflow",
    )
