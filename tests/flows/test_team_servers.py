"""`make team` with its real servers: one story from an embedded store to a restored backup. Needs PostgreSQL and `weed`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alpro import registry
from alpro.config import Params
from alpro.registry.lineage import trace
from alpro.tracking import live, store
from flows.team import postgres, s3
from flows.team.layout import Ports, Team, TeamError, client_variables
from tests.registry.test_promote import MODEL, candidate, promote, with_champion, without_champion  # noqa: F401
from tests.tracking.conftest import empty_store, ended, params  # noqa: F401
from tests.tracking.tracked_project import STEPS, contents, history, params_of, write_record

from .conftest import DVC, REPOSITORY, commit, living_in, run, wait_for

pytestmark = pytest.mark.slow  # PostgreSQL, S3, MLflow, Prefect; S3 is away for a minute
OUTAGE_S = 60
TRAINED = "finetune/msrvtt_ret"


def missing() -> str | None:
    """Return why the servers cannot start here, or None."""
    try:
        postgres.binaries()
        s3.program()
    except TeamError as error:
        return str(error)
    absent = [name for name in ("psycopg", "boto3", "dvc_s3", "flask_wtf") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


@dataclass
class Servers:
    """The servers of one folder, started in a clone of this repository."""

    checkout: Path
    team: Team
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "AWS_"))}
        own = {"ALPRO_TEAM": str(self.team.folder), "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *paths()])}
        ports = {f"{name.upper()}_PORT": str(port) for name, port in vars(self.team.ports).items()}
        return {**kept, **own, **ports, **variables}

    def command(self, *words: str, cwd: Path | None = None, fails: bool = False) -> str:
        """Run `python -m flows.team` and return its output, of stderr if it should fail."""
        line = [sys.executable, "-m", "flows.team", *words]
        done = subprocess.run(line, cwd=cwd or self.checkout, env=self.environment(), capture_output=True, text=True)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    def start(self) -> None:
        with self.log.open("w") as file:
            line = [sys.executable, "-m", "flows.team"]
            self.process = subprocess.Popen(line, cwd=self.checkout, env=self.environment(), stdout=file, stderr=file)
        wait_for(lambda: self.process.poll() is not None or "Ctrl-C" in self.log.read_text(), "servers")
        assert self.process.poll() is None, self.log.read_text()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(120) == 0, self.log.read_text()
            wait_for(lambda: not [*living_in(self.checkout), *living_in(self.team.folder)], "end of the processes")


def paths() -> list[str]:
    """Return the folders of PYTHONPATH, with which packages may have been added to this environment."""
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def free_ports() -> Ports:
    """Return ports that are free now; S3 needs eight in a row."""
    for first in range(20000, 30000, 16):
        if all(map(is_free, range(first, first + 11))):
            return Ports(first, first + 1, first + 9, first + 10)
    raise AssertionError("no free ports")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("servers")
    run("git", "clone", "-q", str(REPOSITORY), str(folder / "project"), cwd=folder)
    home = Path(tempfile.mkdtemp(prefix="alpro-team-"))  # PostgreSQL's user must be able to enter, if this is root
    home.chmod(0o711)
    made = Servers(folder / "project", Team(home / "team", free_ports()), folder / "team.log")
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def project(with_champion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A finished pipeline with a champion in its embedded store."""
    return Path(shutil.copytree(with_champion, tmp_path_factory.mktemp("client") / "project"))


@pytest.fixture
def client(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of somebody who uses the servers."""
    for name, value in client_variables(servers.team).items():
        monkeypatch.setenv(name, value)


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


def refusal(port: int, path: str = "/", scheme: str = "http") -> int:
    """Return the HTTP status of a request without a password; 0 if the port speaks no HTTP to strangers."""
    stranger = ssl.create_default_context()
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(f"{scheme}://127.0.0.1:{port}{path}", timeout=10, context=stranger) as answer:
            return answer.status
    except urllib.error.HTTPError as answer:
        return answer.code
    except (OSError, ValueError):
        return 0


def test_embedded_store_moves_with_versions_aliases_and_gate_records(
    servers: Servers, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, bytes_before = registered(project), weights(project, "champion")
    assert before["models"][MODEL][0] == {"candidate": 1, "champion": 1}
    said = servers.command("migrate", cwd=project)
    assert f"{len(before['runs'])} runs, {len(before['versions'])} model versions" in said
    assert "is not empty, and a migration would replace it" in servers.command("migrate", cwd=project, fails=True)
    servers.start()
    for name, value in client_variables(servers.team).items():
        monkeypatch.setenv(name, value)
    assert registered(project) == before
    assert weights(project, "champion") == bytes_before


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
    }.items():  # fmt: skip
        assert done in found[name][1]
    wrong = doctor(servers, MLFLOW_TRACKING_PASSWORD="guessed", PREFECT_API_AUTH_STRING="alpro:guessed")
    assert {name for name, (status, _) in wrong.items() if status == "fail"} == {"MLflow", "Prefect"}
    assert "MLFLOW_TRACKING_PASSWORD" in wrong["MLflow"][1] and "PREFECT_API_AUTH_STRING" in wrong["Prefect"][1]
    keys = servers.team.secret_file("aws_dvc")
    right = keys.read_text()
    keys.write_text(right.replace(servers.team.secret("s3_dvc"), "guessed"))
    try:
        assert "credentialpath" in doctor(servers)["DVC remotes"][1]
    finally:
        keys.write_text(right)


def doctor(servers: Servers, **variables: str) -> dict[str, tuple[str, str]]:
    """Return status and text of the checks of services, by name."""
    environment = servers.environment(**{**client_variables(servers.team), **variables})
    line = [sys.executable, "-m", "alpro", "doctor", "--json"]
    done = subprocess.run(line, cwd=servers.checkout, env=environment, capture_output=True, text=True)
    checks = json.loads(done.stdout)["checks"]
    names = ("MLflow", "Prefect", "DVC remotes", "PostgreSQL", "champions")
    return {
        check["name"]: (check["status"], f"{check['detail']} -> {check['remedy']}")
        for check in checks
        if check["name"] in names
    }


def test_data_reach_a_second_clone(servers: Servers, tmp_path: Path) -> None:
    source = servers.checkout
    folder = source / "data" / "mine"
    folder.mkdir(parents=True)
    for number in range(20):
        (folder / f"{number}.bin").write_bytes(os.urandom(20_000))
    run(DVC, "add", "-q", "data/mine", cwd=source)
    commit(source, "data")
    run(DVC, "push", "-q", "-r", "team", cwd=source)
    second = tmp_path / "second"
    run("git", "clone", "-q", str(source), str(second), cwd=tmp_path)
    servers.command("remote", cwd=second)
    run(DVC, "pull", "-q", "-r", "team", "data/mine.dvc", cwd=second)
    copied = {file.name: file.read_bytes() for file in (second / "data" / "mine").iterdir()}
    assert copied == {file.name: file.read_bytes() for file in folder.iterdir()} and len(copied) == 20


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
    backup = servers.team.folder.with_name("backup")
    said = servers.command("backup", str(backup))
    assert "3 databases" in said
    assert "already running" in servers.command("restore", str(backup), fails=True)
    servers.stop()
    assert "exists, and a restore would replace it" in servers.command("restore", str(backup), fails=True)
    shutil.rmtree(servers.team.folder)
    assert "restored 3 databases" in servers.command("restore", str(backup))
    servers.start()
    assert registered(project) == before
    assert weights(project, "champion") == weights_before
    assert origin(project) == lineage
    assert {name for name, (status, _) in doctor(servers).items() if status != "ok"} == set()


def origin(root: Path) -> Any:
    return trace(root, f"models:/{MODEL}@champion").as_dict()


def test_upgrade_makes_a_backup_and_leaves_current_databases_alone(servers: Servers) -> None:
    assert "already running" in servers.command("upgrade", fails=True)
    servers.stop()
    said = servers.command("upgrade")
    assert said.count("unchanged") == 3 and "backups/" in said
