"""Checks of DVC, MLflow, the model registry, Prefect and Great Expectations."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

from alpro.checks import servers
from alpro.checks.findings import ANSWER_S, Finding
from alpro.errors import TrackingError
from alpro.lineage import repository_problem, user_problem

PREFECT_NEEDED = "3.9.1"  # the first version that refuses a fastapi with which its commands get HTTP 422


def check_dvc(root: Path) -> Finding:
    """Check git, DVC and its cache."""
    if shutil.which("git") is None:
        return Finding("DVC", "fail", "no git", "install git, which DVC needs")
    if importlib.util.find_spec("dvc") is None:
        return Finding("DVC", "fail", "not installed", "`make setup`, or pip install 'alpro[pipeline]'")
    version = metadata.version("dvc")
    if problem := repository_problem(root) or user_problem(root):
        return Finding("DVC", "fail", problem.detail, problem.remedy)
    answer = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=ANSWER_S,
        env=os.environ | {"DVC_NO_ANALYTICS": "1"},
    )
    if answer.returncode:
        error = (answer.stderr.strip().splitlines() or ["no answer"])[-1].removeprefix("ERROR: ")
        return Finding("DVC", "fail", f"{version}: {error}", "run this in the project's folder; `dvc init` creates a project")
    cache = Path(answer.stdout.strip())
    nearest = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(nearest, os.W_OK):
        return Finding("DVC", "fail", f"{version}: cannot write to its cache {cache}", f"change the permissions of {nearest}")
    return Finding("DVC", "ok", f"{version}, cache {cache}{'' if cache.exists() else ' (empty)'}")


def check_mlflow(root: Path) -> Finding:
    """Check that the MLflow store can be read, and a server written to as well."""
    if importlib.util.find_spec("mlflow") is None:
        return Finding("MLflow", "fail", "not installed", "`make setup`, or pip install 'alpro[pipeline]'")
    from alpro.tracking import store

    version, uri = metadata.version("mlflow"), store.store_uri(root)
    address = store.redacted(uri)
    if not store.exists(uri):
        return Finding("MLflow", "ok", f"{version}, store {address} (created by the first run)")
    try:
        runs = _ask_store(root, uri, store.sqlite_path(uri))
    except (OSError, sqlite3.Error, TrackingError) as error:
        remedy = "delete a damaged file, `alpro track sync` fills a new one"
        if store.is_server(uri):
            remedy = "start the server or unset MLFLOW_TRACKING_URI"
        if "MLflow's log" in str(error):
            remedy = "repair what MLflow's log names; records are kept on disk, and `alpro track sync` adds them later"
        if "not authenticated" in str(error) or "401" in str(error):
            remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        if "is locked" in str(error):
            remedy = "another process has locked the file; wait for it to end, or stop it"
        return Finding("MLflow", "fail", f"{version}, store {address}: {error}", remedy)
    return Finding("MLflow", "ok", f"{version}, store {address} ({runs})")


def _ask_store(root: Path, uri: str, file: Path | None) -> str:
    """Return the number of runs, or what worked on the server. Raises OSError, sqlite3.Error or TrackingError."""
    from alpro.tracking import store

    if file is not None:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=5)) as database:
            return f"{database.execute('SELECT count(*) FROM runs').fetchone()[0]} runs"
    if store.is_server(uri):
        store.probe_server(uri)
        return servers.write_and_read_mlflow(root)
    return "not probed"


def check_champions(root: Path) -> Finding:
    """Check that every `champion` alias was set by the gate."""
    if importlib.util.find_spec("mlflow") is None:
        return Finding("champions", "ok", "no MLflow, no registry")
    from alpro.tracking import store

    if not store.exists(store.store_uri(root)):
        return Finding("champions", "ok", "none yet")
    from alpro.registry import aliases

    try:
        with store.opened(root) as opened:
            models = [model.name for model in opened.client.search_registered_models()]
            champions = [name for name in models if aliases.version_at(opened.client, name, "champion")]
            mismatches = [text for name in models if (text := aliases.alias_mismatch(opened.client, name))]
    except TrackingError as error:
        return Finding("champions", "warn", str(error), "repair the MLflow store first")
    if mismatches:
        remedy = "`alpro lineage models:/NAME@champion` shows what it was made from"
        return Finding("champions", "warn", "; ".join(mismatches), remedy)
    return Finding("champions", "ok", ", ".join(champions) or "none yet")


def check_prefect(root: Path) -> Finding:
    """Check that Prefect and the FastAPI beside it are versions whose commands work, and that Prefect can be imported."""
    if importlib.util.find_spec("prefect") is None:
        return Finding("Prefect", "warn", "not installed: no flows", "`make setup`, or pip install 'alpro[pipeline]'")
    if problem := _prefect_problem():
        return Finding("Prefect", "fail", problem, "`make setup`")
    version = metadata.version("prefect")
    environment = os.environ | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", "import prefect"], cwd=root, capture_output=True, text=True, timeout=ANSWER_S, env=environment
    )
    if answer.returncode:
        return Finding("Prefect", "fail", f"{version}: {answer.stderr.strip().splitlines()[-1]}", "`make clean setup`")
    if os.environ.get("PREFECT_API_URL"):
        return servers.check_prefect_server(root, version)
    return Finding("Prefect", "ok", f"{version}, embedded server")


def _prefect_problem() -> str | None:
    """Return why Prefect's commands and flows fail with the installed versions, or None."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    prefect, fastapi = metadata.version("prefect"), metadata.version("fastapi")
    if Version(prefect) < Version(PREFECT_NEEDED):
        return f"{prefect}: its commands fail with fastapi {fastapi}; {PREFECT_NEEDED} or later is needed"
    needed = [Requirement(text) for text in metadata.requires("prefect") or []]
    for requirement in needed:
        if requirement.name == "fastapi" and fastapi not in requirement.specifier:
            return f"{prefect} needs fastapi{requirement.specifier}, but {fastapi} is installed"
    return None


def check_great_expectations(root: Path) -> Finding:
    """Check that Great Expectations is installed."""
    if importlib.util.find_spec("great_expectations") is None:
        return Finding("Great Expectations", "fail", "not installed", "`make setup`, or pip install 'alpro[pipeline]'")
    return Finding("Great Expectations", "ok", metadata.version("great_expectations"))
