"""Runs a step in a child process of its own, which is killed with all its children at the step's limit."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from alpro.checks.gpu.steps import Context, Result, Step, run_step

POLL_S = 0.05


def run_apart(step: Step, context: Context, limit_s: float) -> Result:
    """Run a step in a forked child. Its output is in `work/log.txt`. A child that is killed or dies has failed.

    A fork saves the seconds of importing torch again. This process must therefore never start CUDA, nor torch's threads.
    """
    context.work.mkdir(parents=True, exist_ok=True)
    answer = context.work / "result.json"
    began_s = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads of libraries, which this process does not use
        child = os.fork()
    if child == 0:
        _child(step, context, answer)
    timed_out = True
    try:
        timed_out = not _wait(child, began_s + limit_s)
    finally:  # also after Ctrl-C
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)  # the step, if it is still running, and whatever it left behind
        if timed_out:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    seconds = time.monotonic() - began_s
    if answer.exists():
        status_of_step, detail, figures = json.loads(answer.read_text(encoding="utf-8"))
    elif timed_out:
        status_of_step, detail, figures = "failed", f"killed after its limit of {limit_s:.0f} s", {}
    else:
        status_of_step, detail, figures = "failed", f"its process died{_last_line(context.work / 'log.txt')}", {}
    return Result(step.name, status_of_step, detail, figures, round(seconds, 1), limit_s)


def _wait(child: int, until_s: float) -> bool:
    """Wait for a child. Return False if it is still running at that time."""
    while time.monotonic() < until_s:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(POLL_S)
    return False


def _child(step: Step, context: Context, answer: Path) -> None:
    """Run the step and write its result; never return."""
    code = 1
    try:
        os.setsid()
        log = os.open(context.work / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
        if context.small:
            torch.set_num_threads(1)  # tiny models are slower on several
        result: tuple[Any, ...] = run_step(step, context)
        temporary = answer.with_suffix(".part")
        temporary.write_text(json.dumps(result), encoding="utf-8")
        temporary.replace(answer)
        code = 0
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _last_line(log: Path) -> str:
    """Return the last line of a log, after a colon; empty if there is none."""
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""
    return ""
