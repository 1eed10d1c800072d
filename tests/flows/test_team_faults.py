"""Team servers that refuse, are full or are away: one line with service and remedy, and nothing is lost or duplicated."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alpro import registry
from alpro.checks.servers import check_dvc_remotes, check_postgres, check_s3
from alpro.checks.services import check_mlflow
from alpro.config import Params
from alpro.errors import TrackingError
from alpro.tracking import live, live_run
from flows.team import clients, postgres, s3, servers, supervisor
from flows.team.layout import BUCKETS, Team, TeamError, client_variables, make_secrets, write_private
from flows.team.supervisor import Supervisor
from tests.tracking.conftest import empty_store, ended, params
from tests.tracking.tracked_project import STEPS, contents, history, params_of, stages_of, write_record

from .conftest import DVC, run, wait_for
from .team_servers import empty_folder, free_ports, missing, process_of

__all__ = ["empty_store", "ended", "params"]
pytestmark = pytest.mark.slow  # PostgreSQL, S3 and MLflow
STAGE = "finetune/msrvtt_ret"


@dataclass(frozen=True)
class Stores:
    """PostgreSQL, S3 and MLflow, which this process has started."""

    team: Team
    supervisor: Supervisor

    def start(self, name: str) -> None:
        """Start a server again that has ended, and wait until it answers."""
        wait_for(lambda: self.supervisor.running[name].poll() is not None, f"end of {name}")
        self.supervisor.check()  # notes when it ended
        self.supervisor.check()
        wait_for(self.supervisor.services[name].ready, f"answer of {name}")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    if reason := missing():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, empty_folder() as home:
        patch.chdir(tmp_path_factory.mktemp("stores"))
        patch.setattr(supervisor, "RESTART_S", 0)
        team = Team(home / "team", free_ports())
        with servers.storage_running(team) as started:
            started.start(servers.mlflow(team))
            yield Stores(team, started)


@pytest.fixture
def client(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of somebody who uses the servers."""
    for name, value in client_variables(stores.team).items():
        if name.startswith("MLFLOW_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("ALPRO_TEAM", str(stores.team.folder))


@pytest.fixture
def project(ended: Path, client: None, tmp_path: Path) -> Path:
    """A finished pipeline that no store knows yet."""
    return Path(shutil.copytree(ended, tmp_path / "project"))


@pytest.fixture(scope="module")
def checkout(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC repository with the team's S3 as its remote."""
    root = tmp_path_factory.mktemp("checkout")
    run("git", "init", "-q", cwd=root)
    run(DVC, "init", "-q", cwd=root)
    clients.add_remote(stores.team, root)
    return root


Change = Callable[[dict[str, Any]], object]


@contextmanager
def users(stores: Stores, change: Change) -> Iterator[None]:
    """Change the users of MLflow and DVC in S3."""
    right = (stores.team.folder / "s3" / "users.json").read_text()
    changed = json.loads(right)
    for user in changed["identities"][1:]:
        change(user)
    _use(stores, json.dumps(changed))
    try:
        yield
    finally:
        _use(stores, right)


def _use(stores: Stores, users: str) -> None:
    write_private(stores.team.folder / "s3" / "users.json", users)
    process_of(stores.team, "weed").send_signal(signal.SIGHUP)  # it reads the file again
    time.sleep(2)


@contextmanager
def no_buckets(stores: Stores) -> Iterator[None]:
    own = s3.client(stores.team)
    for bucket in BUCKETS.values():
        for file in own.list_objects_v2(Bucket=bucket).get("Contents", []):
            own.delete_object(Bucket=bucket, Key=file["Key"])
        own.delete_bucket(Bucket=bucket)
    try:
        yield
    finally:
        s3.create_buckets(own)


@contextmanager
def full(stores: Stores) -> Iterator[None]:
    """Give the buckets a quota that their content exceeds."""
    own = s3.client(stores.team)
    for bucket in BUCKETS.values():
        own.put_object(Bucket=bucket, Key="filling", Body=bytes(3_000_000))
    limits = "".join(f"s3.bucket.quota -name={bucket} -op=set -sizeMB=1\n" for bucket in BUCKETS.values())
    closed: set[str] = set()

    def enforce() -> bool:
        said = weed_shell(stores, limits)
        closed.update(bucket for bucket in BUCKETS.values() if f"{bucket} to read only" in said)
        return len(closed) == len(BUCKETS)

    wait_for(enforce, "full buckets")  # the volume server reports its sizes every few seconds
    try:
        yield
    finally:
        weed_shell(stores, limits.replace("-op=set -sizeMB=1", "-op=remove"))
        for bucket in BUCKETS.values():
            own.delete_object(Bucket=bucket, Key="filling")


def weed_shell(stores: Stores, lines: str) -> str:
    """Run commands of SeaweedFS's administrator, and apply the quotas; return what they print."""
    team = stores.team
    master = f"-master=127.0.0.1:{s3.port(team, 'master')}.{s3.port(team, 'master', grpc=True)}"
    text = f"lock\n{lines}s3.bucket.quota.enforce -apply\nunlock\n"
    line = [s3.program(), "shell", master]
    done = subprocess.run(line, cwd=team.folder / "s3", input=text, capture_output=True, text=True, timeout=600)
    return done.stdout + done.stderr


@contextmanager
def no_s3(stores: Stores) -> Iterator[None]:
    process_of(stores.team, "weed").kill()
    wait_for(lambda: not s3.is_ready(stores.team), "end of S3")
    try:
        yield
    finally:
        stores.start("s3")


def without_write(user: dict[str, Any]) -> None:
    user["actions"] = [action for action in user["actions"] if action.startswith(("Read", "List"))]


def other_secret(user: dict[str, Any]) -> None:
    user["credentials"][0]["secretKey"] = "another-word"


def other_key(user: dict[str, Any]) -> None:
    user["credentials"][0]["accessKey"] += "-of-another-server"


FAULTS: dict[str, tuple[Callable[[Stores], contextlib.AbstractContextManager[None]], str]] = {
    "read-only": (lambda stores: users(stores, without_write), "this key may not write"),
    "wrong secret": (lambda stores: users(stores, other_secret), "the secret key is wrong"),
    "unknown key": (lambda stores: users(stores, other_key), "the server does not know this key"),
    "missing bucket": (no_buckets, "the bucket is missing"),
    "full": (full, "look for a full disk, a bucket's quota"),
    "away": (no_s3, "start the server"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_s3_is_named_with_its_remedy(
    stores: Stores, project: Path, checkout: Path, params: Params, fault: str
) -> None:
    make, remedy = FAULTS[fault]
    with make(stores):
        found, remotes, mlflow = check_s3(checkout), check_dvc_remotes(checkout), check_mlflow(project)
        with pytest.raises(TrackingError) as error:
            registry.sync(project, params)
        pushed = push(checkout)
    assert found is not None and found.status == "fail" and remedy in found.remedy, found
    assert remotes is not None and remotes.status == "fail" and remedy in remotes.remedy, remotes
    assert mlflow.status == "fail" and "MLflow cannot store or read files" in mlflow.detail, mlflow
    assert str(error.value).startswith(f"{stores.team.address('mlflow')}: MLflow cannot store or read files (its S3 bucket is")
    assert pushed.returncode and "ERROR" in pushed.stderr, pushed.stderr
    wait_for(lambda: check_s3(project).status == "ok", "S3 after the repair")  # type: ignore[union-attr]
    assert push(checkout).returncode == 0


def push(root: Path) -> subprocess.CompletedProcess[str]:
    """Push one file to the team's S3."""
    (root / "pushed.bin").write_bytes(os.urandom(1000))
    run(DVC, "add", "-q", "pushed.bin", cwd=root)
    return subprocess.run([DVC, "push", "-r", "team", "pushed.bin"], cwd=root, capture_output=True, text=True)


def test_postgres_that_does_not_start_is_named_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := missing():
        pytest.skip(reason)
    monkeypatch.chdir(tmp_path)
    with empty_folder() as home:
        team = Team(home / "team", free_ports())
        make_secrets(team)
        postgres.create(team)
        with (team.folder / "postgres" / "postgresql.conf").open("a") as file:
            file.write("no_such_setting = 1\n")
        said = r"^postgres: .*configuration file .* contains errors; see its log .*postgres.log$"
        with pytest.raises(TeamError, match=said), servers.storage_running(team):
            pass


def test_sync_after_every_fault_completes_without_duplicates(
    stores: Stores,
    project: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with users(stores, without_write):
        line = [sys.executable, "-m", "alpro", "track", "sync"]
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(line, cwd=project, env=variables, capture_output=True, text=True)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    os.kill(int((stores.team.folder / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGINT)
    wait_for(lambda: stores.supervisor.running["postgres"].poll() is not None, "end of PostgreSQL")
    with pytest.raises(TrackingError, match="MLflow answers with an error, as it does while its database is away"):
        registry.sync(project, params)
    finding = check_postgres(project)
    assert finding is not None and finding.status == "fail" and "Connection refused" in finding.detail
    stores.start("postgres")
    result = registry.sync(project, params)
    assert sorted(result.runs) == sorted(stages_of(params)) and len(result.registered) == 4
    again = registry.sync(project, params)
    assert sorted(again.unchanged) == sorted(stages_of(params)) and not again.registered
    opened = contents(project)
    assert {stage: len(found) for stage, found in opened.runs.items()} == {None: 1, **dict.fromkeys(stages_of(params), 1)}
    models = opened.client.search_logged_models([opened.experiment.experiment_id])
    assert len(models) == 4, "a model whose files could not be stored is deleted"
    (trained,) = opened.runs[STAGE]
    assert [file.path for file in opened.client.list_artifacts(trained.info.run_id, "plots")] == ["plots/curve.png"]
    points = [(p.step, p.value) for p in opened.client.get_metric_history(trained.info.run_id, "train/loss")]
    assert sorted(points) == sorted((row["step"], row["loss"]) for row in history(STAGE, STEPS) if row["split"] == "train")


def test_training_goes_on_while_mlflow_restarts_and_its_rows_arrive_once(
    stores: Stores,
    project: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_run, "START_AFTER_S", 0.0)
    write_record(project, STAGE, STEPS, "restarted")
    rows = history(STAGE, STEPS, "restarted")
    with live(STAGE, params_of(STAGE, "restarted"), root=project, key="restarted") as training:
        for number, row in enumerate(rows):
            training.log(row)
            if number == 0:
                wait_for(lambda: written(project), "first row in MLflow")
            if number == 10:
                stores.supervisor.running["mlflow"].terminate()
                wait_for(lambda: not servers.answers(f"{stores.team.address('mlflow')}/health"), "end of MLflow")
            if number == 20:
                time.sleep(3)
                stores.start("mlflow")
    registry.sync(project, params)
    opened = contents(project)
    (found,) = [each for each in opened.runs[STAGE] if each.data.params.get("salt") == "restarted"]
    points = [(p.step, p.value) for p in opened.client.get_metric_history(found.info.run_id, "train/loss")]
    assert sorted(points) == sorted((row["step"], row["loss"]) for row in rows if row["split"] == "train")


def written(root: Path) -> bool:
    """Return True if the live run has a point."""
    return any(each.data.metrics and each.data.params.get("salt") == "restarted" for each in contents(root).runs.get(STAGE, []))
