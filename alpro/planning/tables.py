"""Output of `alpro plan`: work, memory and disk of each training, and the assumptions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import rich
from rich.table import Table

from alpro.config import Params
from alpro.planning.plan import Device, TrainingPlan, data_bytes, device_of, plan_trainings
from alpro.report.table import make_table

GB = 1e9


def print_plan(
    params: Params, gpus: int | None, gpu: str | None, tflops: float | None, mfu: float | None, as_json: bool = False
) -> None:
    """Print the plan of all trainings as tables or JSON. Raises ConfigError and DataError like `plan_trainings`."""
    device, gpus = device_of(gpu, tflops, mfu), gpus or params.launch.world_size
    plans, data = plan_trainings(params, gpus, device), data_bytes(params)
    if as_json:
        header = {"gpus": gpus, "device": device.name, "assumption": device.assumption}
        print(json.dumps({**header, "trainings": [plan.as_dict() for plan in plans], "data_bytes": data}, indent=1))
        return
    rich.print(*plan_tables(plans, gpus, device), *plan_notes(plans, device, data), sep="\n")


def plan_tables(plans: Sequence[TrainingPlan], gpus: int, device: Device) -> list[Table]:
    """Return two tables for `rich.print`, made for a terminal of 80 columns."""
    recomputed = any(plan.recomputed_flops for plan in plans)
    work = make_table(
        f"Work, with hours on {gpus} {device.name}", "samples", "ep-\nochs", "batch", "steps", "FLOPs", "+ vali-\ndation",
        *(["+ re-\ncomp."] if recomputed else []), "hours", "type",
    )  # fmt: skip
    for plan in plans:
        validation = "?" if plan.validation_flops is None else _flops(plan.validation_flops)
        work.add_row(
            plan.name, _count(sum(plan.samples.values())) + ("" if plan.counted else "*"), str(plan.epochs), f"{plan.batch:,}",
            _count(plan.steps), _flops(plan.flops), validation,
            *([_flops(plan.recomputed_flops) if plan.recomputed_flops else ""] if recomputed else []),
            f"{plan.hours:.1f}", plan.precision,
        )  # fmt: skip
    memory = make_table(
        "Memory per process and disk, GB", "param-\neters", "weights", "frozen", "grad-\nients", "mo-\nments", "activ-\nations",
        "peak", "check-\npoint", "state",
    )  # fmt: skip
    for plan in plans:
        m = plan.memory
        numbers = (m.weights + m.casts, m.frozen, m.gradients, m.moments, m.activations + m.recomputed)
        capacity = device.memory_gb
        too_large = "" if capacity is None or m.peak / GB <= capacity else "!"
        memory.add_row(
            plan.name, f"{plan.parameters / 1e6:.1f} M", *(f"{number / GB:.1f}" for number in numbers),
            f"{m.peak / GB:.1f}{too_large}", f"{plan.checkpoint_bytes / GB:.1f}", f"{plan.resume_bytes / GB:.1f}",
        )  # fmt: skip
    return [work, memory]


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number:,}"


def _flops(number: float) -> str:
    return f"{number:.1e}".replace("e+", "e")


def plan_notes(plans: Sequence[TrainingPlan], device: Device, data: Mapping[str, int]) -> list[str]:
    """Explain the marks in the tables, and the assumptions."""
    hours = f"Hours: {device.assumption} (assumed, not measured); reading the videos is not included."
    notes = ["type: of the numbers; state: what a resume needs.", hours]
    if not all(plan.counted for plan in plans):
        notes.append("* published numbers (alpro/planning/published.py): the data are missing here.")
    if any(plan.validation_flops is None for plan in plans):
        notes.append("?: the validation split is missing here and its size is not published; the hours do not include it.")
    if device.memory_gb is not None and any(plan.memory.peak / GB > device.memory_gb for plan in plans):
        remedy = "use a smaller batch_size with more accumulation, precision bf16, or gradient_checkpointing exact"
        notes.append(f"! more than the {device.memory_gb} GB of a {device.name}: {remedy}.")
    if data:
        notes.append("Videos and images: " + ", ".join(f"{name} {size / GB:.1f} GB" for name, size in data.items()))
    else:
        notes.append("Disk for videos and images: unknown, there are none here.")
    return notes
