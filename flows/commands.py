"""Runs the commands of a flow: their output is logged line by line, and none of their processes outlives them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

TOOLS = Path(__file__).resolve().parent.parent / "tools"
BIN = Path(sys.executable).parent
END_S = 15  # tools/under_lock.py needs up to 10 s to end a stage with all its processes
KILL_S = 5  # after SIGKILL a process is gone as soon as the kernel gets to it
LAST_LINES = 200  # kept to explain a failure
SHORT_S = 600  # limit of a command that queries git or DVC
LONG_S = 24 * 3600  # limit of a command that hashes or copies data


def environment() -> dict[str, str]:
    """Return the variables of every command: this environment's programs first on PATH, unbuffered output."""
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}


def dvc() -> str:
    """Return the path of the dvc program in this environment."""
    return str(BIN / "dvc")


def under_lock(name: str) -> list[str]:
    """Return the command prefix that runs a command under tools/under_lock.py, which leaves no process of it behind."""
    return [sys.executable, "-E", "-S", str(TOOLS / "under_lock.py"), name]


def stream(command: Sequence[str], root: Path, log: Callable[[str], object]) -> tuple[int, list[str]]:
    """Run a command in `root` and log each line of its output. Returns the exit code and the last lines.

    All its processes have ended when this returns or raises, also after Ctrl-C, a cancelled run or a time-out. They also end
    when this process is killed.
    """
    return _stream(command, root, log, None)


def stream_json(command: Sequence[str], root: Path, log: Callable[[str], object]) -> tuple[int, list[str], str]:
    """Like `stream`, but log only stderr. Returns the exit code, the last lines of stderr, and stdout as one text."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        code, lines = _stream(command, root, log, file)
        file.seek(0)
        return code, lines, file.read()


def _stream(command: Sequence[str], root: Path, log: Callable[[str], object], stdout: IO[str] | None) -> tuple[int, list[str]]:
    """Log stdout and stderr of a command, or stderr only if a file for stdout is given."""
    child = subprocess.Popen(
        [*under_lock("stage"), *command],
        cwd=root,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.STDOUT if stdout is None else subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is handled by this process
    )
    last: deque[str] = deque(maxlen=LAST_LINES)
    output = child.stdout if stdout is None else child.stderr
    assert output is not None
    try:
        for line in output:
            if text := line.rstrip():
                log(text)
                last.append(text)
        return child.wait(), list(last)
    finally:
        end(child)
        output.close()


def output_of(command: Sequence[str], root: Path, timeout_s: float = SHORT_S) -> str:
    """Return the standard output of a short command. Raises RuntimeError if it fails or takes too long."""
    try:
        process = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"`{' '.join(command)}` was ended: no answer after {timeout_s:g} s") from None
    if process.returncode:
        lines = (process.stderr or process.stdout).strip().splitlines() or [f"exit code {process.returncode}"]
        errors = [line for line in lines if line.startswith(("ERROR: ", "fatal: "))]  # a hint or a warning can be the last line
        raise RuntimeError(f"`{' '.join(command)}` failed: {(errors or lines)[-1]}")
    return process.stdout


def end(child: subprocess.Popen[Any]) -> None:
    """End a command that runs under tools/under_lock.py, with all processes that it started."""
    if child.poll() is not None:
        return
    try:
        descendants = psutil.Process(child.pid).children(recursive=True)  # in case under_lock.py has only just started
    except psutil.NoSuchProcess:
        descendants = []
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for process in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline_s = time.monotonic() + KILL_S
    while not all(map(_has_ended, descendants)) and time.monotonic() < deadline_s:
        time.sleep(0.01)


def _has_ended(process: psutil.Process) -> bool:
    """Return True if the process is gone or a zombie."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
    except psutil.NoSuchProcess:
        return True
