"""All worktrees and temporary experiment folders of a project share one store."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from alpro.checks.services import check_mlflow
from alpro.errors import TrackingError
from alpro.tracking.store import artifact_location, exists, opened, redacted, sqlite_path, store_uri
from tests.tracking.tracked_project import with_store


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit."""
    root = tmp_path / "main"
    root.mkdir()
    _git(root, "init", "-q")
    _git(root, "commit", "-q", "--allow-empty", "-m", "x")
    return root


def test_store_is_in_the_main_checkout_from_any_folder(repository):
    (repository / "sub").mkdir()
    assert store_uri(repository) == store_uri(repository / "sub") == f"sqlite:///{repository}/.mlflow/mlflow.db"


def test_worktree_uses_the_same_store(repository, tmp_path):
    _git(repository, "worktree", "add", "-q", str(tmp_path / "elsewhere" / "tree"))
    assert store_uri(tmp_path / "elsewhere" / "tree") == store_uri(repository)


def test_temporary_dvc_experiment_uses_the_same_store(repository, tmp_path):
    """`dvc exp run --temp` creates a repository inside the main one or inside a worktree."""
    tree = tmp_path / "tree"
    _git(repository, "worktree", "add", "-q", str(tree))
    for outer in (repository, tree):
        inner = outer / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc"
        inner.mkdir(parents=True)
        _git(inner, "init", "-q")
        assert store_uri(inner) == store_uri(repository)


def test_without_git_the_store_is_in_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert store_uri(tmp_path) == f"sqlite:///{tmp_path}/.mlflow/mlflow.db"


def test_environment_variable_selects_another_store(repository, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert store_uri(repository) == "http://somewhere:5000"


def test_password_is_redacted():
    assert redacted("https://me:secret@host:5000/x") == "https://host:5000/x"
    assert redacted("sqlite:////some/where/mlflow.db") == "sqlite:////some/where/mlflow.db"


def test_artifacts_are_stored_beside_the_database(repository, empty_store):
    with_store(repository, empty_store)
    with opened(repository) as store:
        assert store.files == repository / ".mlflow" / "artifacts"
        assert store.client.get_experiment(store.experiment).artifact_location == str(store.files)
    with opened(repository) as again:
        assert again.experiment == store.experiment


def test_environment_is_restored_after_using_a_store(repository, empty_store):
    with_store(repository, empty_store)
    with opened(repository) as store:
        assert os.environ["MLFLOW_TRACKING_URI"] == store.uri
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert "MLFLOW_REGISTRY_URI" not in os.environ


def test_deleted_experiment_is_restored(repository, empty_store):
    with_store(repository, empty_store)
    with opened(repository) as store:
        store.client.delete_experiment(store.experiment)
    with opened(repository) as store:
        assert store.client.get_experiment(store.experiment).lifecycle_stage == "active"


def _git(root: Path, *args: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *args], cwd=root, check=True, capture_output=True)


ODD_NAMES = ["50%", "a%20b", "what?", "x#1", "a b", "it's", 'say "hi"', "$HOME;x&y", "größe"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_store_is_inside_a_folder_with_an_odd_name(tmp_path: Path, empty_store: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    _git(root, "init", "-q")
    with_store(root, empty_store)
    assert sqlite_path(store_uri(root)) == root / ".mlflow" / "mlflow.db" and exists(store_uri(root))
    with opened(root) as store:
        run = store.client.create_run(store.experiment).info.run_id
        store.client.log_text(run, "kept", "notes/a.txt")
        again = store.client.download_artifacts(run, "notes/a.txt", str(tmp_path))
    assert Path(again).read_text() == "kept"
    assert len(list((root / ".mlflow" / "artifacts").rglob("a.txt"))) == 1
    assert {path.name for path in tmp_path.iterdir()} == {name, Path(again).name}, "nothing is beside the folder"


def test_location_of_an_ordinary_folder_stays_its_path() -> None:
    assert artifact_location(Path("/data/my runs")) == "/data/my runs"
    assert artifact_location(Path("/data/50%?#")) == "file:///data/50%25%3F%23"


@pytest.mark.slow
def test_store_is_created_inside_a_folder_with_an_odd_name(tmp_path: Path) -> None:
    root = tmp_path / 'a%20b?c#d it\'s "$5"; &e'
    root.mkdir()
    _git(root, "init", "-q")
    with opened(root):
        pass
    assert (root / ".mlflow" / "mlflow.db").exists() and [path.name for path in tmp_path.iterdir()] == [root.name]


def test_store_moves_with_a_folder_that_gets_an_odd_name(repository: Path, empty_store: Path, tmp_path: Path) -> None:
    with_store(repository, empty_store)
    with opened(repository) as store:
        run = store.client.create_run(store.experiment).info.run_id
        store.client.log_text(run, "kept", "a.txt")
    moved = repository.rename(tmp_path / "100% mine#2")
    with opened(moved) as store:
        assert Path(store.client.download_artifacts(run, "a.txt", str(tmp_path))).read_text() == "kept"


@pytest.mark.slow  # SQLite waits for the lock
def test_locked_store_is_explained_in_one_line(repository: Path, empty_store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with_store(repository, empty_store)
    with opened(repository):
        pass
    with closing(sqlite3.connect(repository / ".mlflow" / "mlflow.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError) as error, opened(repository) as store:
            store.client.create_run(store.experiment)
        finding = check_mlflow(repository)
    assert "another process has locked it; wait for it to end" in str(error.value) and "\n" not in str(error.value)
    assert (
        "sqlalche" not in (str(error.value) + "".join(capfd.readouterr())).lower()
        and finding.status == "fail"
        and "another process" in finding.remedy
    )


class FailingServer(BaseHTTPRequestHandler):
    """An MLflow server whose files, or whose records, cannot be stored: it answers 500 on these paths."""

    failing = ""

    def do_GET(self) -> None:
        run = {
            "info": {"run_id": "r", "run_uuid": "r", "experiment_id": "7", "artifact_uri": "mlflow-artifacts:/7/r"},
            "data": {},
        }
        self.answer({"experiment": {"experiment_id": "7", "name": "alpro", "lifecycle_stage": "active"}, "run": run})

    do_POST = do_PUT = do_GET

    def answer(self, found: dict) -> None:
        body = json.dumps(found).encode()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(500 if self.failing and self.failing in self.path else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        ("mlflow-artifacts", "MLflow cannot store or read files (its S3 bucket is full, missing or read-only"),
        ("runs/create", "MLflow answers with an error, as it does while its database is away; see MLflow's log"),
        ("", "MLflow has stopped answering; start it again"),
    ],
)
def test_failure_of_a_server_is_explained_in_one_line(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, said: str
) -> None:
    monkeypatch.setattr(FailingServer, "failing", failing)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    (tmp_path / "a.txt").write_text("kept")
    with ThreadingHTTPServer(("127.0.0.1", 0), FailingServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(TrackingError) as error, opened(repository) as store:
            if not failing:
                server.shutdown()
                server.server_close()
            store.client.log_artifact(store.client.create_run(store.experiment).info.run_id, str(tmp_path / "a.txt"))
        server.shutdown()
    assert str(error.value).startswith(f"{uri}: {said}") and "\n" not in str(error.value)
