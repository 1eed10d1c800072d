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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from alpro import distributed
from alpro.config import Launch, Model, Training
from alpro.data.batches.batch import Batch
from alpro.files.json_files import write_json
from alpro.launch.run import run_world
from alpro.models import build_model
from alpro.training.engine import Engine
from alpro.training.flops import peak_flops, recomputed_flops, training_flops
from benchmarks.evaluation import processor

# frames, text tokens, losses, arguments of the model: the paper's settings of each training (arXiv 2112.09583, section 4)
TRAININGS: dict[str, tuple[int, int, tuple[str, ...], dict[str, Any]]] = {
    "prompter": (4, 30, ("vtc",), {"num_entities": 1000}),
    "pretrain": (4, 30, ("vtc", "vtm", "mlm", "pem"), {"num_entities": 1000}),
    "retrieval": (8, 40, ("vtc", "vtm"), {}),
    "qa": (16, 40, ("qa",), {"num_answers": 1500}),
}
SIDE, PATCH = 224, 16
WARM_UP = 2  # steps
SHARED = 4  # questions of a clip in `sharing`
ROOT = Path(__file__).parents[1]


class RandomTask:
    """A training task with random batches, one for each step; records the time at which each step asks for its batch."""

    losses: tuple[str, ...]
    metrics = ("none",)

    def __init__(self, name: str, batches: Sequence[Batch], checkpointing: str) -> None:
        frames, tokens, self.losses, options = TRAININGS[name]
        self.model = build_model(name, num_frames=frames, gradient_checkpointing=checkpointing, **options)  # type: ignore[arg-type]
        if name == "pretrain":
            for buffer in (self.model.prompter.video_prompt_feat, self.model.prompter.image_prompt_feat):  # type: ignore[union-attr]
                buffer.copy_(torch.nn.functional.normalize(torch.randn(buffer.shape), dim=-1))  # type: ignore[union-attr,arg-type]
        self.batches, self.flops_per_clip = batches, training_flops(name, Model(), frames, tokens)
        self.times: list[float] = []
        self.memory_gb: list[float] = []  # highest so far, at the end of each step
        self.products: list[float] = []  # FLOP/s of a matrix product, before each step
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def plan_for(self, worlds: Any) -> int:
        return len(self.batches)

    def epoch_of(self, micro_step: int) -> int:
        return 0

    def loader(self, start: int, stop: int) -> RandomTask:
        return self

    counts = 0, 0

    def check_unreadable(self, left_out: int, read: int) -> None:
        """Accept every batch: nothing is read, so nothing is unreadable."""

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        for step, batch in enumerate(self.batches):
            self.mark()
            yield step, batch

    def mark(self) -> None:
        """Record the end of a step, measure the matrix product, and record the beginning of the next step."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            memory = torch.cuda.max_memory_allocated()
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        end = time.perf_counter()
        self.memory_gb.append(memory / 1e9)
        self.products.append(product_rate(self.device))
        self.times += [end, time.perf_counter()]

    def validate(self) -> dict[str, float]:
        self.mark()
        return {"none": 0.0}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


def random_batch(size: int, frames: int, tokens: int) -> Batch:
    """Return random pixels, text of full length with 15 % masked tokens, and a crop of 0.4 of the frame."""
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (size, tokens), generator=g)
    labels = torch.where(torch.rand(ids.shape, generator=g) < 0.15, ids, -100)
    return Batch(
        corpus="made",
        ids=[f"made/{n}" for n in range(size)],
        pixels=torch.randint(0, 256, (size, frames, 3, SIDE, SIDE), generator=g, dtype=torch.uint8),
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mlm_input_ids=torch.where(labels >= 0, 103, ids),
        mlm_labels=labels,
        crop_boxes=torch.tensor([[2 * PATCH, 2 * PATCH, 9 * PATCH, 9 * PATCH]]).expand(size, -1),
        labels=torch.randint(0, 1500, (size,), generator=g),
    )


def product_rate(device: torch.device, side: int = 2048, repeats: int = 3) -> float:
    """Return the FLOP/s of the fp32 product of two square matrices."""
    a, b = torch.randn(2, side, side, device=device)
    out = a @ b
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        torch.matmul(a, b, out=out)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return repeats * 2 * side**3 / (time.perf_counter() - began)


def run_steps(task: RandomTask, precision: str, batch: int) -> list[float]:
    """Train with each batch of the task once; return the seconds of each step."""
    settings = Training(
        epochs=1, batch_size=batch, learning_rate=1e-5, grad_clip=5, num_frames=4, max_text_tokens=40, validations=1,
        select_by="none", precision=precision,
    )  # fmt: skip
    Engine(task, settings, seed=0, device=task.device).run()  # type: ignore[arg-type]
    steps_taken = zip(task.times[1:-1:2], task.times[2::2], strict=True)  # the last mark begins no step
    return [end - begin for begin, end in steps_taken]


def measure(name: str, precision: str, batch: int, steps: int, checkpointing: str) -> dict[str, Any]:
    """Measure a training for some steps, after warm-up steps that allocate the optimizer state and the memory of a step."""
    frames, tokens, *_ = TRAININGS[name]
    task = RandomTask(name, [random_batch(batch, frames, tokens)] * (steps + WARM_UP), checkpointing)
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
    frames, tokens, *_ = TRAININGS["qa"]
    apart = random_batch(SHARED, frames, tokens)
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
