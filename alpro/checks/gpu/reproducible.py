"""Steps: deterministic mode gives equal bytes twice; a killed training resumes to the bytes of an undisturbed one."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import torch

from alpro.checks.gpu.made import SMALL, SMALL_MODEL, TRAININGS, MadeTask, made_batch, made_settings
from alpro.checks.gpu.steps import Context, Failed, Figures
from alpro.files import fingerprint
from alpro.training import randomness
from alpro.training.checkpointer import Checkpointer
from alpro.training.engine import Engine
from alpro.training.snapshots import SnapshotStore

STEPS, KILLED_AFTER = 8, 4
CHILD_S = 60  # seconds that the training to be killed may take to its snapshot


def deterministic(context: Context) -> Figures:
    """Train each model twice in deterministic mode and compare the weights' bytes."""
    figures: Figures = {}
    faults = []
    for name in TRAININGS:
        first, second = (trained(name, context.device) for _ in range(2))
        figures[name] = first
        if first != second:
            faults.append(name)
    if faults:
        raise Failed(f"two equal trainings give other bytes: {', '.join(faults)}", figures)
    return figures


def resume(context: Context) -> Figures:
    """Kill the training of each model after a snapshot, resume it here, and compare with an undisturbed one."""
    figures: Figures = {}
    faults = []
    states = {name: context.work / f"state-{name}" for name in TRAININGS}
    # all kills first: a process that has used a GPU cannot be forked
    killed = {name: kill_after_snapshot(name, state, context.device) for name, state in states.items()}
    for name, state in states.items():
        digest = trained(name, context.device, state)
        figures[name] = f"{digest}, killed after step {killed[name]} of {STEPS}"
        if digest != trained(name, context.device):
            faults.append(name)
    if faults:
        raise Failed(f"a resumed training gives other bytes: {', '.join(faults)}", figures)
    return figures


def trained(name: str, device: torch.device, state: Path | None = None, pause_s: float = 0) -> str:
    """Train a small model in deterministic mode, from `state` if it has a snapshot; return a digest of the weights."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # else cuBLAS may add in another order
    randomness.sum_in_one_order()
    kind = SMALL[name]
    batches = [made_batch(kind.batch, kind, SMALL_MODEL, seed=step, padded=True) for step in range(STEPS)]
    task = MadeTask(name, kind, SMALL_MODEL, batches)
    task.at_step = lambda step: time.sleep(pause_s if step >= KILLED_AFTER else 0)
    store = SnapshotStore(state, say=print) if state else None
    settings = made_settings(kind.batch, save_every_s=1e-6)
    try:
        Engine(task, settings, seed=0, device=device, checkpointer=Checkpointer(store)).run()
    finally:
        if store is not None:
            store.close()
    return fingerprint.weights(task.model)[:12]


def kill_after_snapshot(name: str, state: Path, device: torch.device) -> int:
    """Train in a forked process that is killed once it has a snapshot; return the step of the newest one."""
    child = os.fork()
    if child == 0:
        try:
            trained(name, device, state, pause_s=CHILD_S)
        finally:
            os._exit(1)
    until_s = time.monotonic() + CHILD_S
    snapshot, ended = state / f"step-{KILLED_AFTER:09d}", False
    while not snapshot.exists() and not ended and time.monotonic() < until_s:
        ended = os.waitpid(child, os.WNOHANG)[0] != 0
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    if not ended:
        os.waitpid(child, 0)
    if not snapshot.exists():
        raise Failed(f"{name}: the training to be killed wrote no snapshot within {CHILD_S} s")
    return max(int(path.name.rsplit("-", 1)[1]) for path in state.glob("step-*"))
