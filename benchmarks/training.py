"""Speed and memory of the four trainings at the paper's size, on random batches: a table, and JSON on the last line.

    python -m benchmarks.training --json benchmarks/training.json    # batch 2, fp32 and bf16, each in its own process
    python -m benchmarks.training --only retrieval --precisions bf16 --batch 8
    python -m benchmarks.training --only sharing --precisions fp32 --steps 2   # question answering, 1 and 4 per clip

The JSON is written after each row. Rows that it already has, measured with the same options and libraries, are kept.

`rate` is the nominal FLOP/s of a step (alpro/training/flops.py: no recomputation, no padding) divided by the FLOP/s of an
fp32 matrix multiplication on the same threads. The latter is measured before and after each step, because a shared
machine's speed varies; the median over the steps is shown. `scaling` compares two processes of one thread with one. `sharing`
alternates steps of question answering with four questions about four clips and about one clip.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from alpro import distributed
from alpro.checks.gpu.machine import product_rate, wait_for
from alpro.checks.gpu.made import TRAININGS, MadeTask, made_batch, made_settings
from alpro.config import Launch, Model
from alpro.data.batches.batch import Batch
from alpro.files.json_files import write_json
from alpro.launch.run import run_world
from alpro.training.engine import Engine
from alpro.training.flops import peak_flops, recomputed_flops, training_flops
from benchmarks.evaluation import processor

WARM_UP = 2  # steps
SHARED = 4  # questions of a clip in `sharing`
ROOT = Path(__file__).parents[1]


class RandomTask(MadeTask):
    """A training on made batches; records the time at which each step asks for its batch."""

    def __init__(self, name: str, batches: Sequence[Batch], checkpointing: str) -> None:
        super().__init__(name, TRAININGS[name], Model(), batches, checkpointing)  # type: ignore[arg-type]
        self.at_step = lambda step: self.mark()
        self.times: list[float] = []
        self.memory_gb: list[float] = []  # highest so far, at the end of each step
        self.products: list[float] = []  # FLOP/s of a matrix product, before each step
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def mark(self) -> None:
        """Record the end of a step, measure the matrix product, and record the beginning of the next step."""
        wait_for(self.device)
        if self.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated()
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        end = time.perf_counter()
        self.memory_gb.append(memory / 1e9)
        self.products.append(product_rate(self.device, 2048))
        self.times += [end, time.perf_counter()]


def run_steps(task: RandomTask, precision: str, batch: int) -> list[float]:
    """Train with each batch of the task once; return the seconds of each step."""
    settings = made_settings(batch, precision=precision, learning_rate=1e-5)
    Engine(task, settings, seed=0, device=task.device).run()  # type: ignore[arg-type]
    steps_taken = zip(task.times[1:-1:2], task.times[2::2], strict=True)  # the last mark begins no step
    return [end - begin for begin, end in steps_taken]


def measure(name: str, precision: str, batch: int, steps: int, checkpointing: str) -> dict[str, Any]:
    """Measure a training for some steps, after warm-up steps that allocate the optimizer state and the memory of a step."""
    task = RandomTask(name, [made_batch(batch, TRAININGS[name], Model())] * (steps + WARM_UP), checkpointing)
    times = run_steps(task, precision, batch)[WARM_UP:]
    around = [(a + b) / 2 for a, b in pairwise(task.products[WARM_UP:])]
    flops = task.flops_per_clip * batch
    rates = [flops / t / rate for t, rate in zip(times, around, strict=True)]
    peak = peak_flops(task.device, precision)
    return {
        "training": name,
        "precision": precision,
        "step_s": statistics.median(times),
        "memory_gb": task.memory_gb[-1],
        "rate": statistics.median(rates),
        "rates": rates,
        "product_gflops": statistics.median(around) / 1e9,
        **({"mfu": flops / statistics.median(times) / peak} if peak else {}),
    }


def measure_sharing(precision: str, steps: int, checkpointing: str) -> dict[str, Any]:
    """Measure question answering with `SHARED` questions about as many clips (the old way) and about one, in alternation.

    The first step is not counted. Memory is the highest so far, so steps with one clip come first.
    """
    frames, tokens = TRAININGS["qa"].frames, TRAININGS["qa"].tokens
    apart = made_batch(SHARED, TRAININGS["qa"], Model())
    together = replace(apart, pixels=apart.pixels[:1], clips=torch.zeros(SHARED, dtype=torch.long))
    task = RandomTask("qa", [together, *[together, apart] * steps], checkpointing)
    times = run_steps(task, precision, SHARED)[1:]
    rates = {name: SHARED / statistics.median(times[first::2]) for name, first in (("apart", 1), ("together", 0))}
    again = recomputed_flops if checkpointing != "none" else lambda *sizes: 0.0
    one, many = (training_flops("qa", Model(), frames, tokens, n) + again("qa", Model(), frames, n) for n in (1, SHARED))
    return {
        "questions": SHARED,
        "precision": precision,
        "questions_per_s": rates,
        "seconds": times,
        "ratio": rates["together"] / rates["apart"],
        "nominal_ratio": one / many,
        "memory_gb": {"together": task.memory_gb[2], "apart": task.memory_gb[-1]},
        "product_gflops": [product / 1e9 for product in task.products],
    }


def measured_apart(name: str, precision: str, batch: int, steps: int, threads: int, checkpointing: str, world: int = 1) -> Any:
    """Measure one row in its own process, or in a world of several."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, "-m", "benchmarks.training", "--part", str(out), "--only", name, "--precisions", precision]
        command += ["--batch", str(batch), "--steps", str(steps), "--threads", str(threads), "--checkpointing", checkpointing]
        if world == 1:
            subprocess.run(command, check=True, cwd=ROOT)
        else:
            run_world(Launch(processes=world, threads=threads, start_timeout_s=600), command)
        return json.loads(out.read_text())


def scaling(batch: int, steps: int) -> dict[str, Any]:
    """Return the clips per second of one process with one thread, and of two, for the prompter's training in fp32."""
    one, two = (measured_apart("prompter", "fp32", batch, steps, 1, "none", world) for world in (1, 2))
    rates = [world * batch / row["step_s"] for world, row in ((1, one), (2, two))]
    return {"training": "prompter", "clips_per_s": rates, "efficiency": rates[1] / (2 * rates[0])}


def format_row(row: dict[str, Any]) -> str:
    """Format one row of the table."""
    more = f"  MFU {row['mfu']:.0%}" if "mfu" in row else ""
    spread = f"{min(row['rates']):.2f} to {max(row['rates']):.2f}"
    figures = f"{row['step_s']:6.2f} s {row['memory_gb']:6.2f} GB {row['rate']:6.2f}  {spread}{more}"
    return f"{row['training']:10} {row['precision']:9} {figures}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the result; rows that it already has are kept")
    parser.add_argument("--only", nargs="*", choices=[*TRAININGS, "scaling", "sharing"], default=[*TRAININGS, "scaling"])
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--checkpointing", default="none", choices=["none", "exact"])
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)  # measure in this process and write to this file
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options = (args.batch, args.steps, args.threads, args.checkpointing)
    if args.part:
        distributed.init()
        if args.only == ["sharing"]:
            result = measure_sharing(args.precisions[0], args.steps, args.checkpointing)
        else:
            result = measure(args.only[0], args.precisions[0], args.batch, args.steps, args.checkpointing)
        if distributed.rank() == 0:
            args.part.write_text(json.dumps(result))
        distributed.barrier()
        return
    setting = {"batch": args.batch, "steps": args.steps, "threads": args.threads, "checkpointing": args.checkpointing}
    setting |= {"processor": processor(), "torch": torch.__version__}
    result = {"setting": setting, "rows": [], "scaling": None}
    if args.json and args.json.exists() and (before := json.loads(args.json.read_text()))["setting"] == setting:
        result = before
    print(f"{'training':10} {'precision':9} {'step':>8} {'memory':>9} {'rate':>6}  of the steps")
    for name in (name for name in args.only if name in TRAININGS):
        for precision in args.precisions:
            row = next((row for row in result["rows"] if (row["training"], row["precision"]) == (name, precision)), None)
            if row is None:
                row = measured_apart(name, precision, *options)
                result["rows"].append(row)
                if args.json:
                    write_json(args.json, result)
            print(format_row(row), flush=True)
    if "scaling" in args.only:
        if result["scaling"] is None:
            result["scaling"] = scaling(args.batch, args.steps)
            if args.json:
                write_json(args.json, result)
        one, two = result["scaling"]["clips_per_s"]
        efficiency = result["scaling"]["efficiency"]
        print(f"prompter, fp32: {one:.3f} clips/s; two processes of one thread: {two:.3f}, {efficiency:.0%} of twice one")
    if "sharing" in args.only:
        row = result["sharing"] = measured_apart("sharing", args.precisions[0], *options)
        if args.json:
            write_json(args.json, result)
        rates, memory = row["questions_per_s"], row["memory_gb"]
        print(f"qa, {row['precision']}, {SHARED} questions per step, each about its own clip, and all about one:", end=" ")
        print(f"{rates['apart']:.4f} and {rates['together']:.4f} questions/s, {row['ratio']:.2f} times as many", end=" ")
        print(f"({row['nominal_ratio']:.2f} by FLOPs); {memory['apart']:.1f} and {memory['together']:.1f} GB")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
