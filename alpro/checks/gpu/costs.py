"""Steps: what a training step asks of the GPU besides arithmetic - synchronisations, copies - and memory that it keeps."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from alpro.checks.gpu.counting import DEVICE, PretendedGPU
from alpro.checks.gpu.made import SMALL, SMALL_MODEL, TRAININGS, Kind, MadeTask, made_batch, made_settings
from alpro.checks.gpu.steps import Context, Failed, Figures
from alpro.config import Model
from alpro.data.batches.datasets import Collated
from alpro.training.engine import Engine

STEPS = 4  # the third is counted; the last one is logged


@dataclass(frozen=True)
class StepCosts:
    """Costs of one training step after the first ones."""

    operations: int
    copied: int  # bytes
    places: dict[str, int]  # synchronisations by source line
    grown: int  # bytes on the device that a step left there
    peak: int  # bytes

    @property
    def synchronisations(self) -> int:
        """Number of synchronisations."""
        return sum(self.places.values())


def step_costs(name: str, precision: str = "bf16") -> StepCosts:
    """Count the costs of a training step in small sizes."""
    return costs_of(name, SMALL[name], SMALL_MODEL, precision)


def costs_of(name: str, kind: Kind, model: Model, precision: str) -> StepCosts:
    """Count the costs of a training step after the first ones, on a pretended GPU."""
    batches = [made_batch(kind.batch, kind, model, seed=step, padded=True) for step in range(STEPS)]
    task = MadeTask(name, kind, model, batches)
    marks: list[tuple[int, int, dict[str, int], int]] = []
    with PretendedGPU() as gpu:

        def mark(step: int) -> None:
            marks.append((gpu.counts.operations, gpu.counts.copied, dict(gpu.counts.places), gpu.look()))

        task.at_step = mark
        Engine(task, made_settings(kind.batch, precision=precision), seed=0, device=DEVICE).run()
    before, after = marks[-3], marks[-2]  # the last step is logged
    places = {place: count - before[2].get(place, 0) for place, count in after[2].items()}
    return StepCosts(
        operations=after[0] - before[0],
        copied=after[1] - before[1],
        places={place: count for place, count in places.items() if count},
        grown=after[3] - before[3],
        peak=gpu.counts.peak - gpu.base,
    )


def _on_gpu(name: str, device: torch.device) -> tuple[list[str], int]:
    """Train on a GPU; return the synchronisations that CUDA reports in the third step, and the bytes that the step kept."""
    kind = SMALL[name]
    batch = Collated(made_batch(kind.batch, kind, SMALL_MODEL), []).pin_memory().batch
    assert batch is not None
    task = MadeTask(name, kind, SMALL_MODEL, [batch] * STEPS)
    held: list[int] = []

    def mark(step: int) -> None:
        torch.cuda.set_sync_debug_mode("warn" if step == STEPS - 2 else "default")
        held.append(torch.cuda.memory_allocated(device))

    task.at_step = mark
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Engine(task, made_settings(kind.batch, precision="bf16"), seed=0, device=device).run()
    waits = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchronizing CUDA operation" in str(w.message)]
    return waits, held[-2] - held[-3]


def synchronisations(context: Context) -> Figures:
    """Find places in a training step where the host waits for the GPU."""
    figures: Figures = {}
    faults = []
    for name in TRAININGS:
        costs = step_costs(name)
        figures[name] = f"{costs.synchronisations} of {costs.operations} operations, {costs.copied / 1e3:.1f} kB copied"
        faults += [f"{name}: {place}" for place in costs.places]
    for name in () if context.small else TRAININGS:
        waits, _ = _on_gpu(name, context.device)
        figures[f"{name} on the GPU"] = len(waits)
        faults += [f"{name} on the GPU: {wait}" for wait in sorted(waits)[:3]]
    if faults:
        raise Failed(f"the host waits in a step: {'; '.join(faults)}", figures)
    return figures


def leaks(context: Context) -> Figures:
    """Find memory that a training step keeps."""
    figures: Figures = {}
    faults = []
    for name in TRAININGS:
        costs = step_costs(name)
        figures[name] = f"{costs.grown} bytes kept, peak {costs.peak / 1e6:.2f} MB"
        if costs.grown > 0:
            faults.append(f"{name}: {costs.grown} bytes")
    for name in () if context.small else TRAININGS:
        _, grown = _on_gpu(name, context.device)
        figures[f"{name} on the GPU"] = grown
        faults += [f"{name} on the GPU: {grown} bytes"] if grown > 0 else []
    if faults:
        raise Failed(f"a step keeps memory: {'; '.join(faults)}", figures)
    return figures
