"""What a training says while it runs: rows go through a pipe to a process of low priority that fills MLflow.

The training itself never imports MLflow, never waits for a store, and never fails because of one: its record on disk
is the truth, and `alpro track sync` fills in what did not arrive. ALPRO_LIVE=off starts no such process.
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

from alpro.terminal import console
from alpro.tracking.records import flat_params
from alpro.tracking.runs import WRITER_MODULE

START_AFTER_S = 15.0  # a training that is shorter is not worth the seconds of CPU that MLflow's import takes
CLOSE_S = 5.0  # how long a training that ended waits for the writer to send the rest


class LiveRun:
    """A run that shows in MLflow while it is written. Without a command for its writer it does nothing."""

    def __init__(self, command: list[str] | None = None, root: Path = Path()) -> None:
        self._command, self._root = command, root
        self._start_at = time.monotonic() + START_AFTER_S
        self._process: subprocess.Popen[bytes] | None = None
        self._unsent = b""

    def log(self, row: Mapping[str, Any]) -> None:
        """Show one row of the history: `{"step": 10, "epoch": 0, "split": "train", "loss": 3.2}`. Never raises, never waits."""
        self._send({"at_ms": int(time.time() * 1000), "row": dict(row)})

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
            pass  # the pipe is full: the rest goes with the next row
        except (OSError, TypeError, ValueError) as error:
            self._off(error)

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        package = Path(__file__).resolve().parents[2]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(command, cwd=self._root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for pipe in (process.stdin, process.stdout):
            os.set_blocking(pipe.fileno(), False)  # type: ignore[union-attr]
        return process

    def _close(self, status: str) -> None:
        """Send the rest, for at most CLOSE_S; a writer that has not even opened the store is not waited for."""
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
        _end(process)

    def _off(self, error: Exception) -> None:
        process, self._process, self._command = self._process, None, None
        console.say(f"alpro: live tracking ended ({error}); `alpro track sync` fills in the rest", sys.stderr)
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError, AttributeError):
            pipe.close()  # type: ignore[union-attr]


@contextmanager
def live(stage: str, params: Mapping[str, Any], *, key: str = "", root: Path | str = ".") -> Iterator[LiveRun]:
    """A live run of a stage (`finetune/msrvtt_ret`) with the parameters that its record will hold; for rank 0.

    `key` names the training, so that a resumed one goes on in the run of the one that was killed; by default it is the
    digest of the parameters. The run ends FINISHED, or FAILED where the block raises.
    """
    run = _run(stage, params, key, Path(root).resolve()) if os.environ.get("ALPRO_LIVE", "on") != "off" else LiveRun()
    try:
        yield run
    except BaseException as error:
        run._close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run._close("FINISHED")


def _run(stage: str, params: Mapping[str, Any], key: str, root: Path) -> LiveRun:
    flat = flat_params(params)
    key = key or hashlib.sha256(json.dumps([stage, flat], sort_keys=True).encode()).hexdigest()
    run = LiveRun([sys.executable, "-m", WRITER_MODULE], root)
    run._send({"stage": stage, "params": flat, "key": key, "root": str(root)})
    return run
