"""Where MLflow keeps runs and models: a server that MLFLOW_TRACKING_URI names, or SQLite beside git's common directory."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sqlite3
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from alpro.errors import TrackingError
from alpro.lineage import home

if TYPE_CHECKING:
    from mlflow import MlflowClient

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
REACHABLE_S = 5.0
LOCK_S = 120.0


@dataclass(frozen=True)
class Store:
    """An open store. `files` is the folder of its artifacts where they lie on this machine."""

    uri: str
    client: MlflowClient
    experiment: str
    files: Path | None


def folder(root: Path) -> Path:
    """The project's .mlflow/, shared by all its worktrees."""
    return home(root) / ".mlflow"


def store_uri(root: Path | str = ".") -> str:
    """MLFLOW_TRACKING_URI, or the project's own SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder(Path(root)) / 'mlflow.db'}"


def shown(uri: str) -> str:
    """The URI without a password."""
    parts = urlsplit(uri)
    return uri.replace(parts.netloc, parts.netloc.rsplit("@", 1)[-1], 1) if "@" in parts.netloc else uri


def experiment_name() -> str:
    """MLFLOW_EXPERIMENT_NAME, or `alpro`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "alpro"


def exists(uri: str) -> bool:
    """False where the URI is a SQLite file that nobody has made yet."""
    path = sqlite_path(uri)
    return path is None or path.exists()


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI; None for anything else."""
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


@contextmanager
def opened(root: Path | str = ".") -> Iterator[Store]:
    """The store, made where it does not exist yet (5 s, once).

    Whatever it raises inside becomes a TrackingError of one line. MLflow's own functions mean this store too, inside:
    some look it up in the environment (and would else make one in the working directory).
    """
    uri = store_uri(root)
    before = {name: os.environ.get(name) for name in NAMES}
    os.environ.update(dict.fromkeys(NAMES, uri))
    try:
        yield _open(uri)
    except TrackingError:
        raise
    except Exception as error:
        if not _of_the_store(error):
            raise
        raise TrackingError(_told(error, uri)) from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def quiet_mlflow() -> Any:
    """MLflow (an import of seconds), told not to call home, draw bars, or report each table it makes."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Inside, no other process of this project fills the store. Raises TrackingError when another one takes too long."""
    try:
        folder(root).mkdir(parents=True, exist_ok=True)
        lock = (folder(root) / "lock").open("a")
    except OSError as error:
        raise TrackingError(f"{folder(root)}: can't be written ({error.strerror})") from None
    with lock:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    told = f"{lock.name}: held by another `alpro track sync` for {LOCK_S:.0f} s; try again when it ended"
                    raise TrackingError(told) from None
                time.sleep(0.1)
        yield


# --- making and opening -------------------------------------------------------------------------------------


def _open(uri: str) -> Store:
    path = sqlite_path(uri)
    if path is None:
        _reach(uri)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
    client = quiet_mlflow().MlflowClient(uri, uri)
    files = path.parent / "artifacts" if path else None
    return Store(uri, client, _experiment(client, path, files), files)


def _make(path: Path) -> None:
    """Make the tables aside and rename: a kill in these seconds leaves no half store."""
    client = quiet_mlflow().MlflowClient
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new.") as aside:
        new = Path(aside) / path.name
        client(f"sqlite:///{new}").search_experiments(max_results=1)
        try:
            os.link(new, path)  # unlike a rename it refuses to replace what another process made meanwhile
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            shutil.copyfile(new, path)


def _experiment(client: MlflowClient, path: Path | None, files: Path | None) -> str:
    name = experiment_name()
    found = client.get_experiment_by_name(name)
    if found is None:
        from mlflow.exceptions import MlflowException

        try:
            return client.create_experiment(name, artifact_location=str(files) if files else None)
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if path and files and path.parent.name == ".mlflow" and found.artifact_location != str(files):
        _move(path, found.artifact_location, str(files))
    return found.experiment_id


def _move(path: Path, old: str, new: str) -> None:
    """Follow a checkout that was moved or copied: MLflow writes down where files lie as absolute paths."""
    places = {
        "experiments": ("artifact_location",),
        "runs": ("artifact_uri",),
        "logged_models": ("artifact_location",),
        "model_versions": ("source", "storage_location"),
    }
    with closing(sqlite3.connect(path, timeout=20)) as database, database:
        for table, columns in places.items():
            for column in columns:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, old, len(old) + 1, old + "/"),
                )


def _reach(uri: str) -> None:
    """Ask a server for a sign of life; MLflow itself would try for minutes. Any answer counts, a refusal too."""
    if not uri.startswith(("http://", "https://")):
        return
    parts = urlsplit(uri)
    request = urllib.request.Request(f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path.rstrip('/')}/health")
    try:
        urllib.request.urlopen(request, timeout=REACHABLE_S).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        told = f"{shown(uri)}: no MLflow server answers ({reason}); start it, or unset MLFLOW_TRACKING_URI"
        raise TrackingError(told) from None


# --- faults -------------------------------------------------------------------------------------------------


def _of_the_store(error: Exception) -> bool:
    module = type(error).__module__.split(".")[0]
    return isinstance(error, (OSError, sqlite3.Error)) or module in ("mlflow", "sqlalchemy", "alembic", "requests", "urllib3")


def _told(error: Exception, uri: str) -> str:
    text = " ".join(str(error).split())
    where = shown(uri)
    if "database schema" in text or "locate revision" in text:
        return (
            f"{where}: was written by another version of MLflow; install that version, or run `mlflow db upgrade {where}`, "
            "or move the file away and run `alpro track sync`"
        )
    if "not a database" in text or "malformed" in text:
        return f"{where}: is damaged; move the file away and run `alpro track sync`"
    if "readonly" in text or isinstance(error, PermissionError):
        return f"{where}: can't be written ({text[:120]})"
    if "No space left" in text or "disk is full" in text:
        return f"{where}: the disk is full"
    return f"{where}: {text.replace(uri, where)[:300]}"
