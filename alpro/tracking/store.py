"""Opens the MLflow store: the server in MLFLOW_TRACKING_URI, or a SQLite file in the project's main checkout."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from alpro.errors import TrackingError
from alpro.files.locks import Lock, LockHeld, take_lock
from alpro.lineage import main_checkout
from alpro.terminal import logs

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logs.get(__name__)
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
URI_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
REACHABLE_S = 5.0
LOCK_S = 3600.0  # another run may be uploading large checkpoints
SERVER_ERROR = re.compile(
    r"too many 50\d error|error code 50\d|\b50\d Server Error|INTERNAL_ERROR|TEMPORARILY_UNAVAILABLE"
    r"|Max retries exceeded|Connection aborted|Connection refused|Read timed out"
)
ARTIFACTS = "mlflow-artifacts"  # in the address of a file that the server passes on
ESCAPED = {ord("%"): "%25", ord("?"): "%3F", ord("#"): "%23"}  # in the path of an address


@dataclass(frozen=True)
class TrackingStore:
    """An open store. `files` is the folder of its artifacts if it is on this machine, else None."""

    uri: str
    client: MlflowClient
    experiment: str
    files: Path | None


def store_folder(root: Path) -> Path:
    """Return the project's .mlflow/, shared by all its worktrees."""
    return main_checkout(root) / ".mlflow"


def store_uri(root: Path | str = ".") -> str:
    """Return MLFLOW_TRACKING_URI, or the URI of the project's own SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(store_folder(Path(root)) / "mlflow.db")


def redacted(uri: str) -> str:
    """Return the URI without user name and password."""
    parts = urlsplit(uri)
    return uri.replace(parts.netloc, parts.netloc.rsplit("@", 1)[-1], 1) if "@" in parts.netloc else uri


def experiment_name() -> str:
    """Return MLFLOW_EXPERIMENT_NAME, or `alpro`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "alpro"


def exists(uri: str) -> bool:
    """Return False if the URI is a SQLite file that does not exist yet."""
    path = sqlite_path(uri)
    return path is None or path.exists()


def is_server(uri: str) -> bool:
    """Return True if the URI is the address of an MLflow server."""
    return uri.startswith(("http://", "https://"))


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite URI, or None for any other URI."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])).resolve()


def sqlite_uri(path: Path) -> str:
    """Return the URI of a SQLite file. A `%`, `?` or `#` in its path would otherwise name another file."""
    return "sqlite:///" + str(path).translate(ESCAPED)


def remove_undecoded_folder(uri: str) -> None:
    """Remove the empty folder that MLflow makes for an escaped SQLite URI, as it takes the path without decoding it."""
    file = sqlite_path(uri)
    folder = Path(uri.removeprefix("sqlite:///")).absolute().parent
    while file is not None and not file.is_relative_to(folder):
        try:
            folder.rmdir()
        except OSError:  # not empty, so not MLflow's; or never made
            return
        folder = folder.parent


def artifact_location(files: Path) -> str:
    """Return the location of a folder for MLflow: its path, or its URI if MLflow would misread the path."""
    return files.as_uri() if str(files).translate(ESCAPED) != str(files) else str(files)


@contextmanager
def opened(root: Path | str = ".") -> Iterator[TrackingStore]:
    """Open the store; create it first if it does not exist (5 s, once).

    Errors of the store inside the block become a TrackingError with one line. The block also sets MLflow's environment
    variables: some of its functions look the store up there, and would otherwise create one in the working directory.
    """
    uri = store_uri(root)
    log.debug("store %s", redacted(uri))
    before = {name: os.environ.get(name) for name in URI_VARIABLES}
    os.environ.update(dict.fromkeys(URI_VARIABLES, uri))
    try:
        yield _open(uri)
    except TrackingError:
        raise
    except Exception as error:
        if not _is_store_error(error):
            raise
        raise TrackingError(_explain(error, uri)) from error
    finally:
        remove_undecoded_folder(uri)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def quiet_mlflow() -> Any:
    """Import MLflow (takes seconds) with telemetry, progress bars and table-creation messages switched off."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # its errors are raised too, and explained here
    return mlflow


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Lock the store for this project. Raises TrackingError if the lock is not free within LOCK_S."""
    file, task = store_folder(root) / "lock", "another `alpro track sync`"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = Lock(file)
        except LockHeld as held:
            log.info("waiting for %s (%s)", task, held.holder)
            lock = take_lock(file, task, TrackingError, wait_s=LOCK_S)
    except OSError as error:
        raise TrackingError(f"{store_folder(root)}: cannot be written ({error.strerror})") from None
    with lock:
        yield


# --- create and open ----------------------------------------------------------------------------------------


def _open(uri: str) -> TrackingStore:
    path = sqlite_path(uri)
    if path is None:
        _check_reachable(uri)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            create_sqlite(path)
    client = quiet_mlflow().MlflowClient(uri, uri)
    files = path.parent / "artifacts" if path else None
    return TrackingStore(uri, client, _experiment(client, path, files), files)


def create_sqlite(path: Path) -> None:
    """Create a SQLite store: first the tables in a temporary file, then a link, so a kill leaves no partial store."""
    quiet_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new.") as temporary:
        new = Path(temporary) / path.name
        # MLflow writes the location of its default experiment into SQL without escaping quotes, so it is a quoted URI
        SqlAlchemyStore(sqlite_uri(new), (path.parent / "artifacts").as_uri())
        remove_undecoded_folder(sqlite_uri(new))
        try:
            os.link(new, path)  # unlike a rename, this fails if another process has created the file meanwhile
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            shutil.copyfile(new, path)


def _experiment(client: MlflowClient, path: Path | None, files: Path | None) -> str:
    name = experiment_name()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        from mlflow.exceptions import MlflowException

        try:
            return client.create_experiment(name, artifact_location=artifact_location(files) if files else None)
        except MlflowException:  # another process created it first
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    if path and files and path.parent.name == ".mlflow" and experiment.artifact_location != artifact_location(files):
        _move(path, experiment.artifact_location, artifact_location(files))
    return experiment.experiment_id


def _move(path: Path, old: str, new: str) -> None:
    """Update absolute artifact paths in the database after the checkout was moved or copied."""
    path_columns = {
        "experiments": ("artifact_location",),
        "runs": ("artifact_uri",),
        "logged_models": ("artifact_location",),
        "model_versions": ("source", "storage_location"),
    }
    with closing(sqlite3.connect(path, timeout=20)) as database, database:
        for table, columns in path_columns.items():
            for column in columns:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, old, len(old) + 1, old + "/"),
                )


def probe_server(uri: str) -> None:
    """Ask the /health page of an MLflow server; any answer counts, also an HTTP error. Raises OSError without an answer."""
    parts = urlsplit(uri)
    address = f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path.rstrip('/')}/health"
    try:
        urllib.request.urlopen(address, timeout=REACHABLE_S).close()
    except urllib.error.HTTPError as answer:
        answer.close()


def _check_reachable(uri: str) -> None:
    """Raise TrackingError if a server does not answer within REACHABLE_S; MLflow itself would retry for minutes."""
    if not is_server(uri):
        return
    try:
        probe_server(uri)
    except OSError as error:
        reason = getattr(error, "reason", error)
        message = f"{redacted(uri)}: no MLflow server answers ({reason}); start it, or unset MLFLOW_TRACKING_URI"
        raise TrackingError(message) from None


# --- errors -------------------------------------------------------------------------------------------------


def _is_store_error(error: Exception) -> bool:
    module = type(error).__module__.split(".")[0]
    return isinstance(error, (OSError, sqlite3.Error)) or module in ("mlflow", "sqlalchemy", "alembic", "requests", "urllib3")


def _explain(error: Exception, uri: str) -> str:
    text = " ".join(str(error).split())
    where = redacted(uri)
    if is_server(uri) and (problem := _explain_server(text, uri)):
        return f"{where}: {problem}"
    if "database schema" in text or "locate revision" in text:
        return (
            f"{where}: was written by another version of MLflow; install that version, or run `mlflow db upgrade {where}`, "
            "or move the file away and run `alpro track sync`"
        )
    if "not a database" in text or "malformed" in text:
        return f"{where}: is damaged; move the file away and run `alpro track sync`"
    if "is locked" in text:
        return f"{where}: another process has locked it; wait for it to end (`fuser` shows it), or stop it, then run this again"
    if "readonly" in text or isinstance(error, PermissionError):
        return f"{where}: cannot be written ({text[:120]})"
    if "No space left" in text or "disk is full" in text:
        return f"{where}: the disk is full"
    return f"{where}: {text.replace(uri, where)[:300]}"


def _explain_server(text: str, uri: str) -> str | None:
    """Return why a server that answered at first did not do what was asked; None for a problem of the request itself."""
    if not SERVER_ERROR.search(text):
        return None
    try:
        probe_server(uri)
    except OSError:
        return "MLflow has stopped answering; start it again"
    if ARTIFACTS in text:
        cause = "its S3 bucket is full, missing or read-only, its key is wrong, or S3 does not answer"
        return f"MLflow cannot store or read files ({cause}); see MLflow's log, or `alpro doctor` beside `make team`"
    return "MLflow answers with an error, as it does while its database is away; see MLflow's log"
