"""Reads and writes MLflow runs: this project's tags, metric points, parameters, and the writer of a live run."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from alpro.lineage import LockedPath
from alpro.tracking.records import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT_RUN = "mlflow.parentRunId"
STAGE = "alpro.stage"
RECORD = "alpro.record"  # digest of the stage record; set last, so a run with this tag is complete
FILES_DIGEST = "alpro.files"  # digest of all files of the record, including plots
PIPELINE = "alpro.pipeline"  # on the parent run: digest of all records
LIVE = "alpro.live"  # open (written by a training, not yet processed by sync), done or superseded
LIVE_KEY = "alpro.live.key"  # identifies the run to resume
WRITER = "alpro.live.writer"  # host:pid of the writer process
WRITER_MODULE = "alpro.tracking.writer"

BATCH_METRICS, BATCH_PARAMS = 800, 100  # per request; MLflow allows 1000 metrics, 100 parameters and 1 MB


def log_points(client: MlflowClient, run_id: str, points: Iterable[tuple[Point, int]]) -> None:
    """Log points with their times in ms, in batches."""
    from mlflow.entities import Metric

    metrics = [Metric(key, value, at_ms, step) for (key, step, value), at_ms in points]
    for start in range(0, len(metrics), BATCH_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH_METRICS])


def log_params(client: MlflowClient, run: Run, params: Mapping[str, str]) -> None:
    """Log the parameters that the run does not have yet."""
    from mlflow.entities import Param

    entries = [Param(key, value) for key, value in params.items() if key not in run.data.params]
    for start in range(0, len(entries), BATCH_PARAMS):
        client.log_batch(run.info.run_id, params=entries[start : start + BATCH_PARAMS])


def log_inputs(client: MlflowClient, run: Run, data: Mapping[str, LockedPath], context: str) -> None:
    """Log the datasets that the run does not have yet, with DVC's hashes as digests. `context`: training or evaluation."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    logged = {(entry.dataset.name, entry.dataset.digest) for entry in run.inputs.dataset_inputs} if run.inputs else set()
    tag = InputTag("mlflow.data.context", context)
    inputs = [
        DatasetInput(Dataset(path, dep.hash, "local", json.dumps({"uri": path}), profile=json.dumps(vars(dep))), [tag])
        for path, dep in sorted(data.items())
        if (path, dep.hash) not in logged
    ]
    if inputs:
        client.log_inputs(run.info.run_id, inputs)


def set_tags(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    """Set the tags that differ from the run's."""
    from mlflow.entities import RunTag

    new = [RunTag(key, str(value)) for key, value in tags.items() if run.data.tags.get(key) != str(value)]
    if new:
        client.log_batch(run.info.run_id, tags=new)


def logged_points(client: MlflowClient, run: Run) -> dict[Point, int]:
    """Return all points of a run with their times in ms."""
    return {
        comparable((metric.key, metric.step, metric.value)): metric.timestamp
        for key in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, key)
    }


def comparable(point: Point) -> Point:
    """Return the point in a form that can be compared: NaN as None, infinity as the number that MLflow stores for it."""
    key, step, value = point
    if math.isnan(value):
        return key, step, None  # type: ignore[return-value]
    return key, step, max(min(value, 1.7976931348623157e308), -1.7976931348623157e308)


def now_ms() -> int:
    """Return the current time in ms, as MLflow stores it."""
    return int(time.time() * 1000)


def writer_tag() -> str:
    """Return `host:pid` of this process, the value of the tag WRITER."""
    return f"{socket.gethostname()}:{os.getpid()}"


def being_written(run: Run) -> bool:
    """Return True if the writer process of the run is alive. A writer on another host is assumed to be alive."""
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
    """Yield all runs that meet the conditions, page by page."""
    token = None
    while True:
        page = client.search_runs([experiment], " and ".join(conditions), max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def has_tag(name: str, value: str) -> str:
    """Return the condition of `search` that a tag has this value."""
    return f"tags.`{name}` = '{value}'"
