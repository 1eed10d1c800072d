"""Steps: time, memory and model FLOPs utilisation of a training step at the paper's batch per GPU, in bf16."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch

from alpro.checks.gpu.machine import product_rate, wait_for
from alpro.checks.gpu.made import SMALL, SMALL_MODEL, TRAININGS, Kind, MadeTask, made_batch, made_settings
from alpro.checks.gpu.steps import Context, Failed, Figures, Skipped
from alpro.checks.gpu.videos import cores, made_loader, shared_videos
from alpro.config import Model, RandAugment
from alpro.data.batches.datasets import Collated
from alpro.objectives.precision import autocast
from alpro.training.engine import Engine
from alpro.training.flops import peak_flops

WARM_UP, STEPS, SMALL_STEPS = 4, 10, 3
COMPILED_FIGURES = ("first pass s", "loss differs by", "step ms", "peak GB", "MFU")
COMPILED_TOLERANCE = 0.02  # relative difference of a loss; both are computed in bf16
GB = 1e9


def speed(name: str, from_loader: bool = False) -> Callable[[Context], Figures]:
    """Return the step that measures one training, with data from memory or from the loader."""

    def step(context: Context) -> Figures:
        make = _LoadedTask if from_loader else _memory_task
        kind, model = sizes(name, context.small)
        return measure(make(name, kind, model, _steps(context), context), kind, context)

    return step


def compiled(context: Context) -> Figures:
    """Measure the trainings with the blocks of the video encoder compiled, which are most of the arithmetic."""
    figures: Figures = {"backend": _backend(context)}
    for name in TRAININGS:
        kind, model = sizes(name, context.small)
        task = _memory_task(name, kind, model, _steps(context), context)
        found = _compile(task, context) | measure(task, kind, context)
        figures[name] = ", ".join(f"{key} {value}" for key, value in found.items() if key in COMPILED_FIGURES)
    return figures


def _backend(context: Context) -> str:
    """Return the back end of torch.compile; generating and compiling C++ would take minutes on two cores."""
    return "aot_eager" if context.small else "inductor"


def _steps(context: Context) -> int:
    return WARM_UP + (SMALL_STEPS if context.small else STEPS)


def sizes(name: str, small: bool) -> tuple[Kind, Model]:
    """Return the sizes of a training and of its model: the paper's, or small ones."""
    return (SMALL[name], SMALL_MODEL) if small else (TRAININGS[name], Model())


def measure(task: MadeTask, kind: Kind, context: Context, precision: str = "bf16") -> Figures:
    """Train over the batches of a task; return figures of a step after the first ones."""
    device, began_s = context.device, [0.0, 0.0]

    def mark(step: int) -> None:
        if step in (WARM_UP, task.steps):
            wait_for(device)
            began_s[step == task.steps] = time.perf_counter()

    task.at_step = mark
    engine = Engine(task, made_settings(kind.batch, precision=precision), seed=0, device=device)
    engine.run()
    step_s = (began_s[1] - began_s[0]) / (task.steps - WARM_UP)
    loss = engine.log.history[0]["loss"]
    flops = task.flops_per_clip * kind.batch
    figures: Figures = {"batch": kind.batch, "step ms": round(step_s * 1e3, 1), "clips/s": round(kind.batch / step_s, 1)}
    if device.type == "cuda":
        figures["peak GB"] = round(torch.cuda.max_memory_allocated(device) / GB, 2)
        peak = peak_flops(device, precision)
        figures |= {"MFU": round(flops / step_s / peak, 3)} if peak else {"TFLOP/s": round(flops / step_s / 1e12, 1)}
    else:
        figures["of a matrix product"] = round(flops / step_s / product_rate(device, 512), 3)
    if not math.isfinite(loss):
        raise Failed(f"the loss is {loss}", figures)
    return figures | {"loss": round(loss, 3)}


def _memory_task(name: str, kind: Kind, model: Model, steps: int, context: Context) -> MadeTask:
    """Return a task whose batches are in memory, page-locked for a GPU."""
    batch = made_batch(kind.batch, kind, model)
    if context.device.type == "cuda":
        batch = Collated(batch, []).pin_memory().batch or batch
    return MadeTask(name, kind, model, [batch] * steps)


class _LoadedTask(MadeTask):
    """A task whose batches come from made videos through the training's loader."""

    def __init__(self, name: str, kind: Kind, model: Model, steps: int, context: Context) -> None:
        super().__init__(name, kind, model, [])
        self.steps, self.kind, self.sizes, self.name = steps, kind, model, name
        self.paths = shared_videos(context.work, context.small)
        self.workers = max(1, cores() - 1)

    def loader(self, start: int, stop: int) -> Any:
        """Return the loader's batches."""
        task = self.name if self.name in ("retrieval", "qa") else "corpus"
        loader = made_loader(
            self.paths, self.kind, self.sizes, batch=self.kind.batch, steps=self.steps, workers=self.workers,
            randaugment=RandAugment(), task=task,
        )  # fmt: skip
        return _Marked(self, loader)


class _Marked:
    """A loader that calls `at_step` of its task before each batch."""

    def __init__(self, task: MadeTask, loader: Any) -> None:
        self.task, self.loader = task, loader

    def __iter__(self) -> Any:
        batches = iter(self.loader)
        for step in range(self.task.steps):
            self.task.at_step(step)
            yield next(batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def _compile(task: MadeTask, context: Context) -> Figures:
    """Compile the blocks of a task's video encoder; return the difference of its loss in evaluation mode."""
    if context.device.type == "cuda" and not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")):
        raise Skipped("torch.compile needs a C compiler here; none is on the path")
    model, batch = task.model.to(context.device).eval(), task.batches[0].to(context.device)

    def loss() -> float:
        torch.manual_seed(0)
        with autocast(context.device, "bf16"), torch.no_grad():
            return float(model(batch).total)

    eager = loss()
    began_s = time.perf_counter()
    for block in model.visual_encoder.model.blocks:  # most of the arithmetic, in fixed shapes; equal blocks share their code
        block.compile(backend=_backend(context), dynamic=False)
    compiled = loss()
    figures: Figures = {
        "first pass s": round(time.perf_counter() - began_s, 1),
        "loss differs by": float(f"{abs(compiled / eager - 1):.1e}"),
    }  # fmt: skip
    if not abs(compiled / eager - 1) <= COMPILED_TOLERANCE:
        raise Failed(f"the loss is {compiled:.4f} compiled and {eager:.4f} otherwise", figures)
    return figures
