"""Logs a running training to MLflow: rows go through a pipe to a low-priority writer process.

The training itself never imports MLflow, never waits for the store and never fails because of it. Its record on disk is
authoritative, and `alpro track sync` adds whatever is missing in MLflow. ALPRO_LIVE=off disables the writer.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alpro.config import Tracking
from alpro.terminal import logs
from alpro.tracking.records import flat_params
from alpro.tracking.runs import WRITER_MODULE
from alpro.tracking.tensorboard import Board

log = logs.get(__name__)
START_AFTER_S = 15.0  # shorter trainings are not worth the CPU seconds of importing MLflow
CLOSE_S = 5.0  # how long a finished training waits for the writer to send the remaining rows


class LiveRun:
    """A run that is visible in MLflow while it is written. Without a writer command it does nothing."""

    def __init__(self, command: list[str] | None = None, root: Path = Path()) -> None:
        self._command, self._root = command, root
        self._start_at = time.monotonic() + START_AFTER_S
        self._process: subprocess.Popen[bytes] | None = None
        self._unsent = b""
        self.board: Board | None = None

    def log(self, row: Mapping[str, Any]) -> None:
        """Log one history row: `{"step": 10, "epoch": 0, "split": "train", "loss": 3.2}`. Never raises and never waits."""
        self._send({"at_ms": int(time.time() * 1000), "row": dict(row)})
        if self.board is not None:
            self.board.log(row)

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._command is None:
            return
        try:
            self._unsent += json.dumps(message, default=float).encode() + b"\n"
            if self._process is None and time.monotonic() >= self._start_at:
                self._process = self._start(self._command)
            while self._unsent and self._process and self._process.stdin:
                self._unsent = self._unsent[os.write(self._process.stdin.fileno(), self._unsent) :]
        except BlockingIOError:
            pass  # the pipe is full: send the rest with the next row
        except (OSError, TypeError, ValueError) as error:
            self._give_up(error)

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        package = Path(__file__).resolve().parents[2]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(command, cwd=self._root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for pipe in (process.stdin, process.stdout):
            os.set_blocking(pipe.fileno(), False)  # type: ignore[union-attr]
        return process

    def _close(self, status: str) -> None:
        """Send the remaining rows for at most CLOSE_S, or not at all if the writer has not opened the store yet."""
        if self.board is not None:
            self.board.close()
        self._start_at = float("inf")
        self._send({"end": status})
        process, self._process, self._command = self._process, None, None
        if process is None or process.stdin is None or process.stdout is None:
            return
        with suppress(OSError):
            ready = os.read(process.stdout.fileno(), 16)
            deadline = time.monotonic() + CLOSE_S
            while ready and self._unsent and time.monotonic() < deadline:
                with suppress(BlockingIOError):
                    self._unsent = self._unsent[os.write(process.stdin.fileno(), self._unsent) :]
                time.sleep(0.01)
            process.stdin.close()
            if ready:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, deadline - time.monotonic()))
        _kill(process)

    def _give_up(self, error: Exception) -> None:
        process, self._process, self._command = self._process, None, None
        log.warning("live tracking stopped (%s); `alpro track sync` adds the missing rows", error)
        if process is not None:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError, AttributeError):
            pipe.close()  # type: ignore[union-attr]


@contextmanager
def live(
    stage: str, params: Mapping[str, Any], *, key: str = "", root: Path | str = ".", settings: Tracking | None = None
) -> Iterator[LiveRun]:
    """Start a live run of a stage (`finetune/msrvtt_ret`) with the parameters of its record. Call it on rank 0 only.

    `key` identifies the training, so that a resumed one continues the run of the killed one; default: the digest of the
    parameters. The run ends as FINISHED, as FAILED if the block raises, or as KILLED on Ctrl-C. Raises TrackingError if the
    `settings` ask for TensorBoard and it is not installed.
    """
    settings, flat, root = settings or Tracking(), flat_params(params), Path(root).resolve()
    key = key or hashlib.sha256(json.dumps([stage, flat], sort_keys=True).encode()).hexdigest()
    board = Board(root / settings.tensorboard / stage / key[:12]) if settings.tensorboard else None
    run = LiveRun()
    if os.environ.get("ALPRO_LIVE", "on") != "off":
        run = LiveRun([sys.executable, "-m", WRITER_MODULE], root)
        header = {"stage": stage, "params": flat, "key": key, "root": str(root), "system_metrics": settings.system_metrics}
        run._send(header)
    run.board = board
    try:
        yield run
    except BaseException as error:
        run._close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run._close("FINISHED")
