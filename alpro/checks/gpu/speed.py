"""Steps: time, memory and model FLOPs utilisation of a training step at the paper's batch per GPU, in bf16."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from alpro.checks.gpu.machine import product_rate, wait_for
from alpro.checks.gpu.made import SMALL, SMALL_MODEL, TRAININGS, Kind, MadeTask, made_batch, made_settings, neighbours
from alpro.checks.gpu.steps import Context, Failed, Figures, Skipped
from alpro.checks.gpu.videos import cores, made_loader, shared_videos
from alpro.config import Model, RandAugment
from alpro.data.batches.datasets import Collated
from alpro.errors import ConfigError
from alpro.models.compiled import compile_blocks
from alpro.objectives.precision import autocast
from alpro.training.engine import Engine
from alpro.training.flops import peak_flops

WARM_UP, STEPS, SMALL_STEPS = 4, 10, 3
COMPILED_FIGURES = ("first step s", "loss differs by", "norm differs by", "step ms", "peak GB", "MFU")
COMPILED_TOLERANCE = 0.02  # relative difference of a loss or a gradient's norm; both are computed in bf16
GB = 1e9


def speed(name: str, from_loader: bool = False) -> Callable[[Context], Figures]:
    """Return the step that measures one training, with data from memory or from the loader."""

    def step(context: Context) -> Figures:
        make = _LoadedTask if from_loader else _memory_task
        kind, model = sizes(name, context.small)
        return measure(make(name, kind, model, _steps(context), context), kind, context)

    return step


def compiled(context: Context) -> Figures:
    """Measure the trainings as `launch.compile` runs them, without drop path: compiled code would draw other numbers."""
    figures: Figures = {"backend": _backend(context)}
    for name in TRAININGS:
        kind, model = sizes(name, context.small)
        model = model.model_copy(update={"drop_path": 0.0})
        task = _memory_task(name, kind, model, _steps(context), context)
        found = _compile(task, kind, context) | measure(task, kind, context)
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


def _compile(task: MadeTask, kind: Kind, context: Context) -> Figures:
    """Compile the blocks of a task's video encoder; return the differences of its loss and of its gradient's norm."""
    model, batch = task.model.to(context.device).train(), task.batches[0].to(context.device)

    def loss_and_norm() -> tuple[float, float]:
        model.zero_grad()
        torch.manual_seed(0)
        with autocast(context.device, "bf16"):
            total = model(batch, **neighbours(kind, context.device)).total
        total.backward()
        return float(total), float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))

    eager = loss_and_norm()
    began_s = time.perf_counter()
    try:
        compile_blocks(model, context.device, _backend(context))
    except ConfigError as error:
        raise Skipped(str(error)) from None
    differences = [abs(after / before - 1) for after, before in zip(loss_and_norm(), eager, strict=True)]
    figures: Figures = {"first step s": round(time.perf_counter() - began_s, 1)}
    figures |= {f"{what} differs by": float(f"{d:.1e}") for what, d in zip(("loss", "norm"), differences, strict=True)}
    if not max(differences) <= COMPILED_TOLERANCE:
        raise Failed(f"compiled training differs by {max(differences):.2g}", figures)
    return figures
