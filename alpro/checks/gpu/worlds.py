"""Steps: two processes compute the gradients of one, and Horovod with NCCL.

As a script this is one process of the world: `python -m alpro.checks.gpu.worlds OUT.safetensors`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from alpro import distributed
from alpro.checks.gpu.made import SMALL, SMALL_MODEL, TRAININGS, MadeTask, made_batch, made_settings
from alpro.checks.gpu.steps import Context, Failed, Figures, Skipped
from alpro.config import Launch
from alpro.data.batches.batch import Batch
from alpro.errors import LaunchError
from alpro.models.encoders import Announce, ignore_counts
from alpro.training.engine import Engine

PROCESSES, ROWS = 2, 8
TOLERANCE = 1e-4  # relative to the norm of the whole gradient, in fp32


def two_processes(backend: str) -> Callable[[Context], Figures]:
    """Return the step that compares a world of two with one process; `backend` is horovod or torch."""

    def step(context: Context) -> Figures:
        settings = _launch(backend)
        if not context.small and torch.cuda.device_count() < PROCESSES:
            raise Skipped(f"needs {PROCESSES} GPUs, there is {torch.cuda.device_count()}")
        from alpro.launch.run import run_world

        out = context.work / "two.safetensors"
        os.environ["PYTHONPATH"] = os.pathsep.join([str(context.root), os.environ.get("PYTHONPATH", "")])
        try:
            run_world(settings, [sys.executable, "-m", "alpro.checks.gpu.worlds", str(out)])
        except LaunchError as error:
            raise Failed(str(error).splitlines()[0]) from None
        with safetensors.safe_open(out, "pt") as file:
            used = file.metadata()["backend"]
        if used != backend:
            raise Failed(f"the processes used {used}, not {backend}")
        return {"backend": used} | compare(safetensors.torch.load_file(out), gradients())

    return step


def horovod_with_nccl(context: Context) -> Figures:
    """Compare two GPUs under Horovod with one, if Horovod has NCCL; else say what keeps it from being built."""
    if importlib.util.find_spec("horovod") is None:
        raise Skipped(f"Horovod is not installed; {_can_build()}")
    import horovod.torch as horovod

    if not horovod.nccl_built():
        raise Skipped(f"Horovod is installed without NCCL; {_can_build()}")
    return two_processes("horovod")(context)


def compare(two: dict[str, Tensor], one: dict[str, Tensor]) -> Figures:
    """Compare losses and gradients of two processes with those of one, by training."""
    figures: Figures = {"processes": PROCESSES}
    faults = []
    for name in TRAININGS:
        keys = [key for key in one if key.startswith(f"{name}/")]
        whole = torch.stack([one[key].norm() for key in keys]).norm()
        error = float(torch.stack([(two[key] - one[key]).norm() for key in keys]).norm() / whole)
        figures[name] = f"{error:.1e} of {len(keys)} gradients"
        if not error <= TOLERANCE:
            faults.append(f"{name} {error:.1e}")
    if faults or one.keys() != two.keys():
        raise Failed(f"two processes do not compute what one does: {', '.join(faults)}", figures)
    return figures


def _launch(backend: str) -> Launch:
    """Return the settings of a world of two. Raises Skipped if this backend is not there."""
    if backend == "horovod" and importlib.util.find_spec("horovod") is None:
        raise Skipped("Horovod is not installed")
    if importlib.util.find_spec("psutil") is None:
        raise Skipped("psutil, which starts worlds, is missing here; carry its wheel (--wheels)")
    options: dict[str, Any] = {"processes": PROCESSES, "start_timeout_s": 60, "stall_timeout_s": 120}
    return Launch(**options, backend=backend)


def _can_build() -> str:
    """Say what is missing to build Horovod with NCCL."""
    roots = ("/usr", "/usr/local", "/usr/local/cuda", os.environ.get("HOROVOD_NCCL_HOME", "/"))
    places = [Path(root) / "include/nccl.h" for root in roots]
    missing = [program for program in ("nvcc", "cmake", "g++") if shutil.which(program) is None]
    missing += [] if any(place.exists() for place in places) else ["nccl.h"]
    return f"missing to build it: {', '.join(missing)}" if missing else "`make horovod-gpu` builds it"


class _WithNeighbours(nn.Module):
    """A model whose VTM negatives are each row's neighbour, which is in the same process."""

    def __init__(self, model: Any, has_vtm: bool) -> None:
        super().__init__()
        self.inner, self.has_vtm = model, has_vtm

    def forward(self, batch: Batch, announce: Announce = ignore_counts) -> Any:
        if not self.has_vtm:
            return self.inner(batch, announce=announce)
        neighbour = torch.arange(len(batch), device=batch.input_ids.device) ^ 1
        return self.inner(batch, negatives=(neighbour, neighbour), announce=announce)


def gradients() -> dict[str, Tensor]:
    """Return the gradients of one step of each training over this world, by training and parameter."""
    found: dict[str, Tensor] = {}
    share = ROWS // distributed.size()
    mine = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    model = SMALL_MODEL.model_copy(update={"dropout": 0.0, "drop_path": 0.0})
    for name, kind in SMALL.items():
        task = MadeTask(name, kind, model, [_rows(made_batch(ROWS, kind, model, padded=True), mine)])
        inner = task.model
        task.model = _WithNeighbours(inner, "vtm" in kind.losses)
        settings = made_settings(share, grad_clip=1e9)
        Engine(task, settings, seed=0, device=distributed.device()).run()
        found |= {f"{name}/{key}": p.grad.cpu() for key, p in inner.named_parameters() if p.grad is not None}
    return found


def _rows(batch: Batch, rows: slice) -> Batch:
    """Return some rows of a batch."""
    from dataclasses import fields, replace

    parts: dict[str, Any] = {
        f.name: value[rows] for f in fields(batch) if isinstance(value := getattr(batch, f.name), Tensor | list)
    }
    return replace(batch, **parts | {"mlm_positions": None})


if __name__ == "__main__":
    distributed.init()
    result = gradients()
    if distributed.rank() == 0:
        safetensors.torch.save_file(result, sys.argv[1], {"backend": str(distributed.backend_name())})
    distributed.barrier()
    distributed.shutdown()
