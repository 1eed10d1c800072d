"""Runs as this project marks them: tags, points of curves, who writes at a live run."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from alpro.tracking.records import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"
STAGE = "alpro.stage"
RECORD = "alpro.record"  # digest of the record that the run shows; set last, so a run that has it is complete
FILES = "alpro.files"  # digest of all files of the record, plots included
PIPELINE = "alpro.pipeline"  # on the parent: digest of all its records
LIVE = "alpro.live"  # open: written by a training, not yet seen by sync; done; superseded
LIVE_KEY = "alpro.live.key"  # what a resumed training finds its run by
WRITER = "alpro.live.writer"  # host:pid
WRITER_MODULE = "alpro.tracking.writer"

MOST = 800  # entities of one request: MLflow takes 1000, and 1 MB


def log_points(client: MlflowClient, run_id: str, points: Iterable[tuple[Point, int]]) -> None:
    """Send points with their times in ms, in as few requests as MLflow takes."""
    from mlflow.entities import Metric

    metrics = [Metric(key, value, at_ms, step) for (key, step, value), at_ms in points]
    for start in range(0, len(metrics), MOST):
        client.log_batch(run_id, metrics=metrics[start : start + MOST])


def log_params(client: MlflowClient, run: Run, params: Mapping[str, str]) -> None:
    """Send the parameters that the run lacks."""
    from mlflow.entities import Param

    entries = [Param(key, value) for key, value in params.items() if key not in run.data.params]
    for start in range(0, len(entries), 100):
        client.log_batch(run.info.run_id, params=entries[start : start + 100])


def set_tags(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    """Write the tags that differ from the run's."""
    from mlflow.entities import RunTag

    new = [RunTag(key, str(value)) for key, value in tags.items() if run.data.tags.get(key) != str(value)]
    if new:
        client.log_batch(run.info.run_id, tags=new)


def logged_points(client: MlflowClient, run: Run) -> dict[Point, int]:
    """All points that a run has, with their times in ms."""
    return {
        comparable((metric.key, metric.step, metric.value)): metric.timestamp
        for key in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, key)
    }


def comparable(point: Point) -> Point:
    """NaN, which equals nothing, not even itself, as None; and MLflow's stand-ins for infinity."""
    key, step, value = point
    if math.isnan(value):
        return key, step, None  # type: ignore[return-value]
    return key, step, max(min(value, 1.7976931348623157e308), -1.7976931348623157e308)


def now_ms() -> int:
    """The time, as MLflow counts it."""
    return int(time.time() * 1000)


def writer_tag() -> str:
    """This process, as a live run names its writer."""
    return f"{socket.gethostname()}:{os.getpid()}"


def being_written(run: Run) -> bool:
    """Whether a living process (on another host: perhaps) still writes at this run."""
    if run.info.status != "RUNNING" or WRITER not in run.data.tags:
        return False
    host, _, pid = run.data.tags[WRITER].rpartition(":")
    if host != socket.gethostname():
        return True
    try:
        return WRITER_MODULE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def search(client: MlflowClient, experiment: str, *conditions: str) -> Iterator[Run]:
    """All runs that meet the conditions, page by page."""
    token = None
    while True:
        page = client.search_runs([experiment], " and ".join(conditions), max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def tag(name: str, value: str) -> str:
    """A condition of `search`."""
    return f"tags.`{name}` = '{value}'"
