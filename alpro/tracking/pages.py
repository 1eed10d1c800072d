"""Addresses of MLflow's pages, in the view for model training.

MLflow opens an experiment in its view for GenAI, which shows traces and hides the models, unless the address says otherwise.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from alpro.tracking.store import experiment_name, is_server, redacted, sqlite_path, store_uri

TRAINING_VIEW = "workflowType=machine_learning"
LOCAL_PAGE = "http://127.0.0.1:5000"  # of `mlflow ui` and `make ui`, unless a port is given


def experiment_page(page: str, experiment: str | None) -> str:
    """Return the address of the experiment's runs, or of the list of experiments if the id is not known."""
    return f"{page}/#/experiments{f'/{experiment}/runs' if experiment else ''}?{TRAINING_VIEW}"


def run_page(page: str, experiment: str, run: str) -> str:
    """Return the address of a run; `page` is empty for a link inside MLflow."""
    return f"{page}{'/' if page else ''}#/experiments/{experiment}/runs/{run}?{TRAINING_VIEW}"


def runs_address(root: Path | str = ".", page: str | None = None) -> str:
    """Return where the project's runs are shown: at `page`, on the server of the store, or by a local server."""
    uri = store_uri(root)
    page = page or (redacted(uri).rstrip("/") if is_server(uri) else LOCAL_PAGE)
    return experiment_page(page, find_experiment(uri))


def find_experiment(uri: str) -> str | None:
    """Return the id of the project's experiment in a SQLite store, or None; MLflow is not imported, which takes seconds."""
    path = sqlite_path(uri)
    if path is None or not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            query = "SELECT experiment_id FROM experiments WHERE name = ?"
            row = database.execute(query, (experiment_name(),)).fetchone()
    except sqlite3.Error:
        return None  # another store than MLflow's is reported when it is opened
    return str(row[0]) if row else None
