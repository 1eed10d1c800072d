"""Commands of a flow: their lines go to a log as they come, and none of their processes outlives them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

TOOLS = Path(__file__).resolve().parent.parent / "tools"
BIN = Path(sys.executable).parent
PATIENCE_S = 15  # tools/under_lock.py needs up to 10 s to end a stage with all its processes
KEPT = 200  # last lines that say why a command failed
SHORT_S = 600  # a command that asks git or DVC something
LONG_S = 24 * 3600  # one that hashes or copies data


def environment() -> dict[str, str]:
    """The variables of every command: this environment's programs first on PATH, output line by line."""
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}


def dvc() -> str:
    """The dvc beside this Python."""
    return str(BIN / "dvc")


def stream(command: Sequence[str], root: Path, log: Callable[[str], object]) -> tuple[int, list[str]]:
    """Run a command in `root`, hand each line of its output to `log`. Returns exit code and the last lines.

    It runs under tools/under_lock.py, which leaves no process of it behind: neither when the wait ends early (Ctrl-C, a
    cancelled run, a time-out) nor when this process is killed.
    """
    child = subprocess.Popen(
        [sys.executable, "-E", "-S", str(TOOLS / "under_lock.py"), "stage", *command],
        cwd=root,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a Ctrl-C is for this process to handle
    )
    last: deque[str] = deque(maxlen=KEPT)
    assert child.stdout is not None
    try:
        for line in child.stdout:
            if text := line.rstrip():
                log(text)
                last.append(text)
        return child.wait(), list(last)
    finally:
        end(child)
        child.stdout.close()


def ask(command: Sequence[str], root: Path, timeout_s: float = SHORT_S) -> str:
    """Standard output of a short command. Raises RuntimeError with its last line where it fails, or that it takes too long."""
    try:
        done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"`{' '.join(command)}` was ended: no answer after {timeout_s:g} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"`{' '.join(command)}` failed: {said[-1]}")
    return done.stdout


def end(child: subprocess.Popen[Any]) -> None:
    """End what runs under tools/under_lock.py, with all that it started."""
    if child.poll() is not None:
        return
    try:
        below = psutil.Process(child.pid).children(recursive=True)  # under_lock.py may be too young to see to them itself
    except psutil.NoSuchProcess:
        below = []
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
