"""`make team` with its real servers: one story from an embedded store to a restored backup. Needs PostgreSQL and `weed`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alpro import registry
from alpro.checks.doctor import CHECKS
from alpro.config import Params
from alpro.registry.lineage import trace
from alpro.tracking import live, store
from flows.team import backup, postgres, s3
from flows.team.layout import Team, client_variables
from tests.registry.test_promote import MODEL, candidate, promote, with_champion, without_champion  # noqa: F401
from tests.tracking.conftest import empty_store, ended, params  # noqa: F401
from tests.tracking.tracked_project import STEPS, contents, history, params_of, write_record

from .conftest import DVC, PATIENCE_S, apply_experiment, commit, run, tiny_project, wait_for
from .team_servers import Servers, empty_folder, free_ports, missing, refusal

pytestmark = pytest.mark.slow  # PostgreSQL, S3, MLflow, Prefect; S3 is away for a minute
OUTAGE_S = 60
RUN_S = 3600
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
TRAINED = "finetune/msrvtt_ret"
QUESTIONS = "msrvtt_qa"
OVERRIDES = [  # with these, recipe tiny learns enough for the gate
    *("sample.train_videos=120", "sample.test_videos=60"),
    *(f"finetune.{QUESTIONS}.{change}" for change in ("epochs=12", "batch_size=8", "learning_rate=0.003", "validations=1")),
]


@pytest.fixture(scope="module")
def project(with_champion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A finished pipeline with a champion in its embedded store, and an embedded Prefect with a run and a variable."""
    root = Path(shutil.copytree(with_champion, tmp_path_factory.mktemp("client") / "project"))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    own = {"PREFECT_HOME": str(root / ".prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    own["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = str(PATIENCE_S)
    subprocess.run([sys.executable, "-c", EMBEDDED_RUN], cwd=root, env=kept | own, check=True)
    return root


EMBEDDED_RUN = """
from prefect import flow
from prefect.variables import Variable

@flow
def embedded():
    Variable.set("from_the_embedded_server", "kept")

embedded()
"""


@dataclass(frozen=True)
class Migration:
    """The running servers after a migration; what the embedded store had, and what the command printed."""

    servers: Servers
    before: dict[str, Any]
    weights: bytes
    said: str


@pytest.fixture(scope="module")
def migration(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Migration]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("servers")
    tiny_project(folder / "project")
    with empty_folder() as home:
        made = Servers(folder / "project", Team(home / "team", free_ports()), folder / "team.log")
        before, weights_before = registered(project), weights(project, "champion")
        said = made.command("migrate", cwd=project)
        try:
            made.start()
            yield Migration(made, before, weights_before, said)
        finally:
            made.stop()


@pytest.fixture
def servers(migration: Migration) -> Servers:
    return migration.servers


@pytest.fixture
def client(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of somebody who uses the servers."""
    for name, value in client_variables(servers.team).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def flow_run(migration: Migration) -> dict[str, Any]:
    """A run of the pipeline that was started with the form's request, as Prefect's API describes it at its end.

    The checkout has its results, in a commit.
    """
    ask, checkout = migration.servers.prefect, migration.servers.checkout
    deployment = ask("GET", "/deployments/name/pipeline/pipeline")
    form = {"recipe": None, "overrides": OVERRIDES, "tasks": [QUESTIONS], "promote": "auto", "in_checkout": False}
    asked = {"parameters": form, "enforce_parameter_schema": True, "state": {"type": "SCHEDULED"}}
    started = ask("POST", f"/deployments/{deployment['id']}/create_flow_run", asked)
    deadline = time.monotonic() + RUN_S
    while (found := ask("GET", f"/flow_runs/{started['id']}"))["state"]["type"] not in ENDS:
        assert time.monotonic() < deadline, found["state"]
        time.sleep(1)
    assert found["state"]["name"] == "Completed", found["state"]
    apply_experiment(found["name"], checkout)
    commit(checkout, "Results of the run")
    return found


def files_of(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def answer(servers: Servers) -> Any:
    """Return what the champion that `alpro serve` would load answers."""
    from alpro.config import load
    from alpro.served.sources import Sources
    from alpro.serving.single_video import ask

    found = Sources(servers.checkout, load(servers.checkout / "params.yaml"), tasks={"ask": QUESTIONS}).find("ask")
    assert found is not None and found.origin == "champion"
    video = min((servers.checkout / "data/sample/msrvtt_ret/videos").glob("*.mp4"))
    return ask(found.load(), video, "what color is the ball")


def values(run: Any) -> tuple[Any, ...]:
    return run.data.params, run.data.metrics, run.data.tags


def aliases_of(model: Any) -> dict[str, int]:
    return {alias: int(version) for alias, version in model.aliases.items()}


def registered(root: Path) -> dict[str, Any]:
    """Return everything that a store knows of its runs and models."""
    opened = contents(root)
    models = opened.client.search_registered_models()
    versions = [version for model in models for version in opened.client.search_model_versions(f"name = '{model.name}'")]
    return {
        "runs": {
            run.info.run_id: (run.info.start_time, run.info.end_time, run.info.status, values(run))
            for runs in opened.runs.values() for run in runs
        },
        "models": {model.name: (aliases_of(model), model.tags, model.description) for model in models},
        "versions": {
            f"{version.name}/{version.version}": (version.run_id, version.creation_timestamp, version.tags, {*version.aliases})
            for version in versions
        },
    }  # fmt: skip


def weights(root: Path, alias: str) -> bytes:
    """Return the weights of a version, from the store's artifacts."""
    with store.opened(root), tempfile.TemporaryDirectory() as folder:
        import mlflow

        packed = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}@{alias}", dst_path=folder))
        (file,) = packed.rglob("model.safetensors")
        return file.read_bytes()


def test_embedded_stores_move_with_versions_aliases_and_gate_records(migration: Migration, client: None, project: Path) -> None:
    before = migration.before
    assert before["models"][MODEL][0] == {"candidate": 1, "champion": 1}
    assert f"{len(before['runs'])} runs, {len(before['versions'])} model versions" in migration.said
    assert registered(project) == before
    assert weights(project, "champion") == migration.weights
    assert "Prefect: 1 flow runs" in migration.said
    (old,) = migration.servers.prefect("POST", "/flow_runs/filter", {"flows": {"name": {"any_": ["embedded"]}}})
    assert old["state"]["type"] == "COMPLETED"
    assert migration.servers.prefect("GET", "/variables/name/from_the_embedded_server")["value"] == "kept"


def test_every_port_refuses_strangers(servers: Servers) -> None:
    team = servers.team
    pages = [
        (team.ports.mlflow, "/api/2.0/mlflow/experiments/get?experiment_id=1"),
        (team.ports.mlflow, "/"),
        (team.ports.prefect, "/api/deployments/count"),
        (team.ports.s3, "/"),
        (team.ports.s3, "/alpro-mlflow?list-type=2"),
        (s3.port(team, "volume"), "/"),
        (s3.port(team, "volume"), "/1,01637037d6"),
    ]
    pages += [(s3.port(team, part, grpc=True), "/") for part in s3.PARTS]
    answers = {(port - team.ports.postgres, path): refusal(port, path) for port, path in pages}
    assert {place: status for place, status in answers.items() if status not in (0, 401, 403)} == {}
    for path in ("/", "/dir/assign", "/cluster/status"):
        assert refusal(s3.port(team, "master"), path, "https") == 0, "a certificate is needed"
        assert refusal(s3.port(team, "filer"), path) == 404, "switched off"
    psql = [postgres.binaries() / "psql", f"postgresql://alpro@127.0.0.1:{team.ports.postgres}/postgres"]
    done = subprocess.run([*psql, "--no-password"], env={"HOME": "/nowhere"}, capture_output=True, text=True)
    assert done.returncode and "no password supplied" in done.stderr


def test_no_log_and_no_command_line_has_a_secret(servers: Servers) -> None:
    secrets = [
        servers.team.secret(name) for name in ("postgres_mlflow", "postgres_prefect", "mlflow_admin", "prefect", "s3_mlflow")
    ]
    texts = [file.read_text(errors="replace") for file in (servers.team.folder / "logs").glob("*.log")]
    for entry in Path("/proc").iterdir():
        try:
            texts.append((entry / "cmdline").read_text() if entry.name.isdigit() else "")
        except OSError:
            continue
    assert len(texts) > 6 and not [secret for secret in secrets if any(secret in text for text in texts)]


def test_second_model_passes_the_gate_and_becomes_the_champion(client: None, project: Path, params: Params) -> None:  # noqa: F811
    candidate(project, params, "clearly")
    done = promote(project, params)
    assert done.passed and done.moved, str(done)
    opened = contents(project)
    assert aliases_of(opened.client.get_registered_model(MODEL)) == {"candidate": 2, "champion": 2, "previous": 1}
    assert b"clearly" in weights(project, "champion")


def test_doctor_writes_and_reads_every_service(servers: Servers) -> None:
    servers.command("remote")
    found = doctor(servers)
    assert {name for name, (status, _) in found.items() if status != "ok"} == set(), found
    for name, done in {
        "MLflow": "wrote and read a tag and an artifact", "Prefect": "wrote and read a variable",
        "DVC remotes": "team (wrote and read an object)", "PostgreSQL": "wrote and read a row",
        "S3": "alpro-mlflow, alpro-dvc (wrote and read an object)",
    }.items():  # fmt: skip
        assert done in found[name][1]
    wrong = doctor(servers, MLFLOW_TRACKING_PASSWORD="guessed", PREFECT_API_AUTH_STRING="alpro:guessed")
    assert {name for name, (status, _) in wrong.items() if status == "fail"} == {"MLflow", "Prefect"}
    assert "MLFLOW_TRACKING_PASSWORD" in wrong["MLflow"][1] and "PREFECT_API_AUTH_STRING" in wrong["Prefect"][1]
    keys = servers.team.secret_file("aws_dvc")
    right = keys.read_text()
    keys.write_text(right.replace(servers.team.secret("s3_dvc"), "guessed"))
    try:
        wrong = doctor(servers)
        assert "credentialpath" in wrong["DVC remotes"][1] and "the secret key is wrong" in wrong["S3"][1]
    finally:
        keys.write_text(right)


def doctor(servers: Servers, **variables: str) -> dict[str, tuple[str, str]]:
    """Return status and text of the checks of `alpro doctor` for services, by name."""
    findings = {}
    with pytest.MonkeyPatch.context() as patch:
        own = {"ALPRO_TEAM": str(servers.team.folder), **client_variables(servers.team), **variables}
        for name, value in own.items():
            patch.setenv(name, value)
        for name in ("MLflow", "Prefect", "DVC remotes", "PostgreSQL", "S3", "champions"):
            found = CHECKS[name](servers.checkout)
            assert found is not None, name
            findings[name] = (found.status, f"{found.detail} -> {found.remedy}")
    return findings


def test_data_reach_a_second_clone(servers: Servers, tmp_path: Path) -> None:
    source = servers.checkout
    folder = source / "data" / "mine"
    folder.mkdir(parents=True)
    for number in range(20):
        (folder / f"{number}.bin").write_bytes(os.urandom(20_000))
    run(DVC, "add", "-q", "data/mine", cwd=source)
    commit(source, "data")
    servers.command("remote")
    run(DVC, "push", "-q", "-r", "team", cwd=source)
    second = tmp_path / "second"
    run("git", "clone", "-q", str(source), str(second), cwd=tmp_path)
    servers.command("remote", cwd=second)
    run(DVC, "pull", "-q", "-r", "team", "data/mine.dvc", cwd=second)
    assert files_of(second / "data" / "mine") == files_of(folder) and len(files_of(folder)) == 20


def test_run_button_leads_to_a_champion_and_a_second_clone_pulls_its_files(
    servers: Servers, client: None, flow_run: dict[str, Any], tmp_path: Path
) -> None:
    root, name = servers.checkout, f"alpro-{QUESTIONS}"
    opened = contents(root)
    champion = opened.client.get_model_version_by_alias(name, "champion")
    assert champion.tags["alpro.flow"] == f"{flow_run['name']} {flow_run['id']}" and champion.tags["alpro.git.clean"] == "yes"
    assert postgres.sql(servers.team, f"SELECT state_name FROM flow_run WHERE id = '{flow_run['id']}'", "prefect") == [
        "Completed"
    ]
    aliased = "SELECT version FROM registered_model_aliases WHERE name = '{}' AND alias = 'champion'"
    assert postgres.sql(servers.team, aliased.format(name), "mlflow") == [champion.version]
    pages = s3.client(servers.team).get_paginator("list_objects_v2").paginate(Bucket="alpro-mlflow")
    keys = [file["Key"] for page in pages for file in page["Contents"]]
    stored = [key for key in keys if champion.source.removeprefix("models:/") in key]
    assert [key for key in stored if key.endswith("model.safetensors")], stored
    assert not [*root.glob(".mlflow/*.db"), *root.glob(".prefect/*.db")], "nothing is embedded"
    assert answer(servers)
    servers.command("remote")
    run(DVC, "push", "-q", "-r", "team", f"finetune@{QUESTIONS}", cwd=root)
    second = tmp_path / "second"
    run("git", "clone", "-q", str(root), str(second), cwd=tmp_path)
    servers.command("remote", cwd=second)
    run(DVC, "pull", "-q", "-r", "team", f"finetune@{QUESTIONS}", cwd=second)
    made = Path("models/tiny/finetune") / QUESTIONS
    assert files_of(second / made) == files_of(root / made) and Path("model.safetensors") in files_of(second / made)
    assert f"{name}/{champion.version}" in servers.run(
        sys.executable, "-m", "alpro", "lineage", f"models:/{name}@champion", cwd=second
    )


def test_training_keeps_its_records_while_s3_is_away_and_postgres_restarts(
    servers: Servers,
    client: None,
    project: Path,
    params: Params,  # noqa: F811
) -> None:
    rows = history(TRAINED, STEPS, "outage")
    write_record(project, TRAINED, STEPS, "outage")
    outage = threading.Thread(target=cut, args=(servers,))
    with live(TRAINED, params_of(TRAINED, "outage"), root=project, key="outage") as training:
        outage.start()
        pause_s = (OUTAGE_S + 25) / len(rows)
        for row in rows:
            training.log(row)
            time.sleep(pause_s)
        outage.join()
    registry.sync(project, params)
    registry.sync(project, params)
    opened = contents(project)
    (found,) = [each for each in opened.runs[TRAINED] if each.data.params.get("salt") == "outage"]
    points = [(point.step, point.value) for point in opened.client.get_metric_history(found.info.run_id, "train/loss")]
    expected = [(row["step"], row["loss"]) for row in rows if row["split"] == "train"]
    assert sorted(points) == sorted(expected), "nothing is lost or duplicated"
    assert [file.path for file in opened.client.list_artifacts(found.info.run_id, "plots")] == ["plots/curve.png"]


def cut(servers: Servers) -> None:
    """Hold S3 for a minute, and kill PostgreSQL meanwhile."""
    held = servers.team.folder / "hold" / "s3"
    held.touch()
    started = time.monotonic()
    wait_for(lambda: refusal(servers.team.ports.s3) == 0, "end of S3")
    time.sleep(10)
    pid = int((servers.team.folder / "postgres" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGINT)
    wait_for(lambda: not postgres.is_ready(servers.team), "end of PostgreSQL")
    wait_for(lambda: postgres.is_ready(servers.team), "restart of PostgreSQL")
    time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - started)))
    held.unlink()
    wait_for(lambda: refusal(servers.team.ports.s3) == 403, "return of S3")


def test_backup_wipe_and_restore_give_the_same_registry(servers: Servers, client: None, project: Path) -> None:
    before, weights_before, lineage = registered(project), weights(project, "champion"), origin(project)
    saved = servers.team.folder.with_name("backup")
    said = servers.command("backup", str(saved))
    assert "3 databases" in said
    assert "already running" in servers.command("restore", str(saved), fails=True)
    servers.stop(signal.SIGKILL)
    assert "exists, and a restore would replace it" in servers.command("restore", str(saved), fails=True)
    shutil.rmtree(servers.team.folder)
    assert "restored 3 databases" in servers.command("restore", str(saved))
    assert "is not empty, and a migration would replace it" in servers.command("migrate", cwd=project, fails=True)
    servers.start()
    assert registered(project) == before
    assert weights(project, "champion") == weights_before
    assert origin(project) == lineage
    assert servers.prefect("GET", "/variables/name/from_the_embedded_server")["value"] == "kept"
    servers.command("remote")
    assert {name for name, (status, _) in doctor(servers).items() if status != "ok"} == set()


def origin(root: Path) -> Any:
    return trace(root, f"models:/{MODEL}@champion").as_dict()


DOWNGRADE = """
import sys
from alembic import command
from mlflow.server.auth.db.utils import _get_alembic_config as of_users
from mlflow.store.db.utils import _get_alembic_config as of_records

command.downgrade(of_records(sys.argv[1]), "-2")
command.downgrade(of_users(sys.argv[2]), "-1")
"""


def make_older(servers: Servers) -> None:
    """Bring the databases back to earlier revisions, as earlier versions of MLflow and Prefect had them."""
    team = servers.team
    variables = {
        "PGPASSFILE": str(team.secret_file("pgpass")),
        "PREFECT_API_DATABASE_CONNECTION_URL": team.database_uri("prefect", "asyncpg"),
    }
    with backup.storage_available(team):
        uris = [team.database_uri(database, "psycopg") for database in ("mlflow", "mlflow_auth")]
        servers.run(sys.executable, "-c", DOWNGRADE, *uris, **variables)
        words = ["prefect", "server", "database", "downgrade", "--yes", "--revision", "-2"]
        servers.run(sys.executable, "-m", *words, **variables)


def test_databases_of_earlier_versions_are_upgraded_after_a_backup(servers: Servers, client: None, project: Path) -> None:
    before = registered(project)
    assert "already running" in servers.command("upgrade", fails=True)
    servers.stop(signal.SIGINT)
    said = servers.command("upgrade")
    assert said.count("unchanged") == 3 and "backups/" in said
    make_older(servers)
    said = servers.command("upgrade")
    assert said.count(" -> ") == 3, said
    servers.start()
    assert registered(project) == before
