"""A project whose pipeline has finished, and an empty MLflow store that is created once per session."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from alpro.config import Params, parse
from alpro.registry import sync
from alpro.tracking import store
from tests.tracking.tracked_project import with_store, write_all

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny.yaml"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with empty MLflow tables. Creating it takes seconds, so all workers of pytest-xdist share one."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "empty-store.db"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            made = tmp_path_factory.mktemp("store") / "mlflow.db"
            store.create_sqlite(made)
            made.replace(path)
    return path


@pytest.fixture(autouse=True)
def no_other_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the environment variables that name a store."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "ALPRO_LIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True, scope="module")
def short_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Pack an empty package in place of alpro, whose copies would take most of the time (tests/serving has all of it)."""
    package = tmp_path_factory.mktemp("code") / "alpro"
    package.mkdir()
    (package / "__init__.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alpro.registry.package.CODE", package)
        yield


@pytest.fixture(scope="session")
def params() -> Params:
    """Recipe `tiny` with one task of each kind."""
    raw = yaml.safe_load(RECIPE.read_text())
    for section in ("datasets", "finetune", "evaluate", "zeroshot"):
        raw[section] = {task: value for task, value in raw[section].items() if task in ("msrvtt_ret", "msvd_qa")}
    return parse(raw)


@pytest.fixture(scope="session")
def ended(params: Params, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pipeline: records of all stages, checkpoints, matching lock files; no git, an empty store."""
    root = tmp_path_factory.mktemp("ended") / "project"
    shutil.copytree(RECIPE.parent / "init", root / "recipes" / "init")
    (root / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    write_all(root, params)
    with_store(root, empty_store)
    return root


@pytest.fixture
def project(ended: Path, tmp_path: Path) -> Path:
    """A copy of the finished pipeline with its empty store."""
    return Path(shutil.copytree(ended, tmp_path / "project"))


@pytest.fixture(scope="session")
def mirror(ended: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished pipeline after a sync. Tests that change something use `synced`."""
    root = Path(shutil.copytree(ended, tmp_path_factory.mktemp("mirror") / "project"))
    sync(root, params)
    return root


@pytest.fixture
def synced(mirror: Path, tmp_path: Path) -> Path:
    """A copy of `mirror`: a checkout that was moved after its sync."""
    return Path(shutil.copytree(mirror, tmp_path / "project"))


@pytest.fixture
def unused_port() -> int:
    """A local port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
