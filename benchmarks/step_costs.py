"""Kernels, synchronisations and copied bytes of a training step on a GPU, counted without one.

    python -m benchmarks.step_costs --json benchmarks/step_costs.json
    python -m benchmarks.step_costs --compiled    # also the kernels of a compiled step; needs a C++ compiler, takes minutes

The models have the paper's layers, frames, tokens and batch, but narrow layers of one head: counts do not depend on either.
They are taken in bf16 on a device that reports itself as a GPU and computes on the CPU (alpro/checks/gpu/counting.py). The
column `profiled` is the number of operations that torch.profiler sees in the same step on the CPU, those of the backward pass
and the optimizer included, without views. It checks the count, but is not the same number: a CPU takes some other paths.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from alpro.checks.gpu.costs import STEPS, costs_of
from alpro.checks.gpu.made import TRAININGS, Kind, MadeTask, made_batch, made_settings
from alpro.config import Model
from alpro.files.json_files import write_json
from alpro.models.compiled import compile_blocks
from alpro.training.engine import Engine

NARROW = Model(width=16, heads=1, intermediate=32, embed_dim=16)
CPU = torch.device("cpu")
FREE = (  # operations that compute nothing by themselves
    "view", "_unsafe_view", "reshape", "transpose", "t", "permute", "expand", "expand_as", "split", "split_with_sizes", "slice",
    "select", "unsqueeze", "squeeze", "unflatten", "flatten", "as_strided", "alias", "detach", "detach_", "unbind", "narrow",
    "numpy_T", "empty", "empty_like", "empty_strided", "new_empty", "resize_", "result_type", "lift_fresh", "chunk", "T",
    "set_", "view_as", "unsafe_split", "_reshape_alias", "is_nonzero", "item", "_local_scalar_dense", "to", "contiguous",
    "resolve_conj", "resolve_neg", "lift", "_has_compatible_shallow_copy_type", "is_same_size", "can_cast", "pin_memory",
)  # fmt: skip
WIDTHS = {
    "training": 10,
    "batch": 5,
    "kernels": 8,
    "waits": 5,
    "copied kB": 10,
    "kept": 5,
    "profiled": 8,
}  # columns of the table


def counted(name: str, kind: Kind, model: Model) -> dict[str, Any]:
    """Return the counts of one step on the pretended GPU."""
    costs = costs_of(name, kind, model, "bf16")
    return {
        "training": name,
        "batch": kind.batch,
        "kernels": costs.operations,
        "synchronisations": costs.synchronisations,
        "copied_kb": round(costs.copied / 1e3, 1),
        "kept_bytes": costs.grown,
    }


def profiled(name: str, kind: Kind, model: Model, compiled: bool = False) -> int:
    """Return the operations of one step on the CPU that torch.profiler sees: leaves, without views."""
    batches = [made_batch(kind.batch, kind, model, seed=step, padded=True) for step in range(STEPS)]
    task = MadeTask(name, kind, model, batches)
    profiler = profile(activities=[ProfilerActivity.CPU], acc_events=True)

    def mark(step: int) -> None:
        if step == STEPS - 2:
            profiler.start()
        elif step == STEPS - 1:
            profiler.stop()

    task.at_step = mark
    engine = Engine(task, made_settings(kind.batch, precision="bf16"), seed=0, device=CPU)  # type: ignore[arg-type]
    if compiled:
        compile_blocks(task.model, CPU)
    engine.run()
    return sum(_kernels(event) for event in profiler.events() or [] if event.cpu_parent is None)


def _kernels(event: Any) -> int:
    """Count the operations inside an event of the profiler; if there are none, the event itself, unless it computes nothing."""
    inside = sum(_kernels(child) for child in event.cpu_children)
    computes = event.name.startswith("aten::") and event.name.removeprefix("aten::") not in FREE
    return inside or int(computes or event.name.startswith("cpp_fused"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--only", nargs="*", choices=list(TRAININGS), default=list(TRAININGS))
    parser.add_argument("--compiled", action="store_true", help="also count the operations of a compiled step")
    args = parser.parse_args()
    rows = []
    widths = WIDTHS | ({"compiled": 8} if args.compiled else {})
    print(" ".join(f"{name:>{width}}" for name, width in widths.items()))
    for name in args.only:
        kind = TRAININGS[name]
        row = counted(name, kind, NARROW)
        few = replace(kind, batch=2)  # the number of operations does not depend on it
        row["profiled"] = profiled(name, few, NARROW)
        if args.compiled:
            row["profiled_compiled"] = profiled(name, few, NARROW, compiled=True)
        rows.append(row)
        print(
            " ".join(f"{value:>{width}}" for value, width in zip(row.values(), widths.values(), strict=True)),
            flush=True,
        )
    result = {"setting": {"torch": torch.__version__, "precision": "bf16", "layers": NARROW.vision_layers}, "rows": rows}
    if args.json:
        write_json(args.json, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
