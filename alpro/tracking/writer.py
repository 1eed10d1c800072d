"""Writer process of a live run: reads rows from standard input and logs them to MLflow at low priority.

It ends within seconds after its training has ended. A store that does not answer is reported once; the rows are kept
and sent when it answers again.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro.errors import TrackingError
from alpro.tracking import runs
from alpro.tracking.records import Point, row_points
from alpro.tracking.store import TrackingStore, opened

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

ORPHAN_S = 4.0  # time to finish after the training died
RETRY_S = (5.0, 120.0)  # first and longest pause after a failure

Message = dict[str, Any]


class Writer:
    """Sends the rows of one run and keeps those that could not be sent."""

    def __init__(self, stage: str, params: dict[str, str], key: str, root: str, system_metrics: bool = False) -> None:
        self.stage, self.params, self.key, self.root = stage, params, key, Path(root)
        self.system_metrics = system_metrics
        self.monitor: SystemMetricsMonitor | None = None
        self.points: list[tuple[Point, int]] = []
        self.run_id = ""
        self.logged: set[Point] = set()
        self.failures = 0
        self.not_before = 0.0

    def add(self, row: Message, at_ms: int) -> None:
        """Keep a row until the next `send`, without the points that a killed predecessor has already sent."""
        points = list(row_points(row))
        self.points += [(point, at_ms) for point in points if runs.comparable(point) not in self.logged]

    def send(self, *, end: str = "") -> None:
        """Send the kept rows, unless the last failure is too recent. `end` is the final status of the run."""
        if not end and time.monotonic() < self.not_before:
            return
        try:
            with opened(self.root) as store:
                self._begin(store)
                runs.log_points(store.client, self.run_id, self.points)
                self.points.clear()
                if end:
                    if self.monitor is not None:
                        self.monitor.finish()
                    store.client.set_tag(self.run_id, "alpro.live.failures", str(self.failures))
                    store.client.set_terminated(self.run_id, end)
        except (TrackingError, ImportError) as error:
            self._failed(error)

    def _begin(self, store: TrackingStore) -> None:
        if self.run_id:
            return
        tags = {runs.STAGE: self.stage, runs.LIVE: "open", runs.LIVE_KEY: self.key}
        for run in runs.search(store.client, store.experiment, *(runs.has_tag(*tag) for tag in tags.items())):
            if run.info.status != "FINISHED" and not runs.being_written(run):
                self.logged = set(runs.logged_points(store.client, run))
                self.points = [(point, at) for point, at in self.points if runs.comparable(point) not in self.logged]
                store.client.set_tag(run.info.run_id, runs.WRITER, runs.writer_tag())
                store.client.update_run(run.info.run_id, status="RUNNING")
                self.run_id = run.info.run_id
                break
        else:
            tags[runs.WRITER] = runs.writer_tag()
            run = store.client.create_run(store.experiment, run_name=self.stage, tags=tags)
            runs.log_params(store.client, run, self.params)
            self.run_id = run.info.run_id
        if self.system_metrics:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self.monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=store.uri)
            self.monitor.start()
        print("ready", flush=True)

    def _failed(self, error: Exception) -> None:
        if not self.failures:
            message = f"alpro: live tracking: {error}; the record on disk is complete, `alpro track sync` adds what is missing"
            print(message, file=sys.stderr, flush=True)
        self.not_before = time.monotonic() + min(RETRY_S[0] * 2**self.failures, RETRY_S[1])
        self.failures += 1


def read_rows(messages: queue.Queue[Message]) -> None:
    """Move lines from standard input to the queue. When the training is gone, end the process after ORPHAN_S at the latest."""
    parent, rest = os.getppid(), b""
    while True:
        gone = os.getppid() != parent  # forked loader workers may keep the pipe open after the training died
        if not gone and select.select([0], [], [], 0.5)[0]:
            chunk = os.read(0, 1 << 16)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                messages.put(json.loads(line))
            gone = not chunk
        if gone:
            timer = threading.Timer(ORPHAN_S, os._exit, (1,))
            timer.daemon = True
            timer.start()
            messages.put({"end": "FAILED"})
            return


def main() -> None:
    """Read the header, then rows until the training reports its end or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # only the training ends this process
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)  # the training has priority
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "10"
    messages: queue.Queue[Message] = queue.Queue()
    threading.Thread(target=read_rows, args=(messages,), daemon=True).start()
    header = messages.get()
    if "end" in header:
        return
    writer, end = Writer(**header), ""
    while not end:
        writer.send()
        try:
            message: Message | None = messages.get(timeout=1)
        except queue.Empty:
            message = None
        while message is not None and not end:
            end = message.get("end", "")
            if not end:
                writer.add(message["row"], message["at_ms"])
            try:
                message = messages.get_nowait()
            except queue.Empty:
                message = None
    writer.send(end=end)


if __name__ == "__main__":
    main()
