"""A small, fast training with two losses: one over all ranks' rows, one with uneven counts.

As a script this is one process of a world: `python -m tests.training.toy OUT.pt '{"steps": 12, ...}'`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alpro import distributed
from alpro.config import Training
from alpro.distributed.world import active_backend
from alpro.errors import TrainingError
from alpro.training.checkpointer import Checkpointer
from alpro.training.engine import Engine, _Requests
from alpro.training.log import Log
from alpro.training.snapshots import SnapshotStore

WIDTH, ITEMS = 6, 5


@dataclass(frozen=True)
class ToyBatch:
    ids: list[str]
    x: Tensor  # (B, WIDTH)
    y: Tensor  # (B, WIDTH)
    labels: Tensor  # (B, ITEMS), -100: not predicted

    def to(self, device: torch.device) -> ToyBatch:
        return ToyBatch(self.ids, self.x.to(device), self.y.to(device), self.labels.to(device))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class ToyOutput:
    losses: dict[str, Tensor]
    counts: dict[str, Tensor | int]
    weights: dict[str, float] = field(default_factory=dict)


class ToyModel(nn.Module):
    def __init__(self, dropout: float = 0.0, ballast: int = 0, weight: float = 0.5) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.left, self.right = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4)
        self.head = nn.Linear(4, ITEMS * 3)
        self.unused = nn.Linear(3, 3)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.dropout, self.weight = dropout, weight
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("ballast", torch.zeros(ballast))  # makes the snapshots large

    def forward(self, batch: ToyBatch, announce: Callable[[Mapping[str, Any]], None] = lambda counts: None) -> ToyOutput:
        u = F.dropout(F.normalize(self.left(batch.x), dim=-1), self.dropout, self.training)
        v = F.normalize(self.right(batch.y), dim=-1)
        if self.training:
            self.seen += 1
        everyone, offset = distributed.gather(torch.cat([u, v], 1))
        all_u, all_v = everyone.split(4, 1)
        targets = torch.arange(len(u)) + offset
        contrast = (F.cross_entropy(u @ all_v.T / 0.2, targets) + F.cross_entropy(v @ all_u.T / 0.2, targets)) / 2
        logits = self.head(u).view(-1, 3)
        labels = batch.labels.flatten()
        counts = {"contrast": len(u), "items": (count := (labels >= 0).sum())}
        announce(counts)
        items = F.cross_entropy(logits, labels, reduction="sum") / count.clamp(min=1)
        return ToyOutput({"contrast": contrast, "items": items}, counts, {"items": self.weight})


class ToyLoader:
    def __init__(self, task: ToyTask, start: int, stop: int) -> None:
        self.task, self.start, self.stop, self.read = task, start, stop, 0

    def __iter__(self) -> Iterator[tuple[int, ToyBatch]]:
        for step in range(self.start, self.stop):
            self.read += 1
            yield step, self.task.batch(step)

    @property
    def counts(self) -> tuple[int, int]:
        return self.task.faults.get("unreadable", 0) * (distributed.rank() + 1), self.read

    def check_unreadable(self, left_out: int, read: int) -> None:
        if left_out > self.task.faults.get("allowed", 0) * read:
            raise TrainingError(f"{left_out} of {read} could not be read")

    def state_dict(self) -> dict[str, Any]:
        return {"read": self.read}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.read += state["read"]


class ToyTask:
    losses = ("contrast", "items")
    metrics = ("score",)
    flops_per_clip = 0.0

    def __init__(
        self, steps: int, rows: int = 8, dropout: float = 0.0, dtype: torch.dtype = torch.float32, **faults: Any
    ) -> None:
        self.model = ToyModel(dropout, faults.get("ballast", 0), faults.get("weight", 0.5)).to(dtype)
        self.steps, self.rows, self.dtype, self.faults = steps, rows, dtype, faults

    def plan_for(self, worlds: Any) -> int:
        return self.steps

    def epoch_of(self, micro_step: int) -> int:
        return micro_step // self.steps

    def loader(self, start: int, stop: int) -> ToyLoader:
        return ToyLoader(self, start, stop)

    def batch(self, step: int) -> ToyBatch:
        """Return this rank's rows of the step's global batch; their number differs between ranks."""
        g = torch.Generator().manual_seed(1000 + step)
        x, y = (torch.randn(self.rows, WIDTH, generator=g, dtype=torch.float64).to(self.dtype) for _ in range(2))
        labels = torch.randint(-2, 3, (self.rows, ITEMS), generator=g)
        labels[labels < 0] = -100
        labels[0] = -100
        world, rank = distributed.size(), distributed.rank()
        ends = [round(self.rows * (r / world) ** 0.8) for r in range(world + 1)]
        mine = slice(ends[rank], ends[rank + 1])
        if step + 1 in (self.faults.get("bad_step"), self.faults.get("die_step")) and "fault_file" in self.faults:
            Path(self.faults["fault_file"]).touch()
        if self.faults.get("fill_step") == step + 1:
            fill(Path(self.faults["fill"]))
        if self.faults.get("bad_step") == step + 1 and rank == world - 1:
            x[mine] = float(self.faults.get("bad_value", "nan"))
        if self.faults.get("bad_gradient_step") == step + 1 and rank == world - 1:
            self.model.head.weight.register_hook(lambda gradient: gradient * math.inf)
        if self.faults.get("die_step") == step + 1 and rank == world - 1:
            raise ValueError("a fault on one rank")
        time.sleep(self.faults.get("sleep_s", 0))
        return ToyBatch([f"toy/{n}" for n in range(ends[rank], ends[rank + 1])], x[mine], y[mine], labels[mine])

    def validate(self) -> dict[str, float]:
        torch.rand(3)  # random draws here must not change the training
        return {"score": float(self.model.left.weight.sum().abs())}


def fill(path: Path) -> None:
    """Fill the file's disk, leaving one megabyte."""
    room = os.statvfs(path.parent)
    path.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - 2**20)))


def settings(**changes: Any) -> Training:
    values: dict[str, Any] = {
        "epochs": 1, "batch_size": 4, "learning_rate": 0.01, "grad_clip": 1.0, "num_frames": 1, "max_text_tokens": 4,
        "validations": 3, "select_by": "score", "log_every": 2, "warmup_ratio": 0.2,
    }  # fmt: skip
    return Training(**(values | changes))


def train(
    steps: int,
    state: str | None = None,
    seed: int = 1,
    changes: dict[str, Any] | None = None,
    show: bool = False,
    **of_task: Any,
) -> dict[str, Any]:
    """Train and return everything that can be compared."""
    task = ToyTask(steps, **of_task)
    first = distributed.rank() == 0
    store = SnapshotStore(state) if state and first else None
    try:
        engine = Engine(
            task, settings(**(changes or {})), seed=seed, checkpointer=Checkpointer(store), log=Log(shown=show and first)
        )
        best = engine.run()
    finally:
        if store:
            store.close()
    return {
        "weights": {k: v.clone() for k, v in task.model.state_dict().items()},
        "best": [best.step, best.value],
        "history": engine.log.history,
        "random": torch.rand(4),
    }


def stopped(**options: Any) -> str:
    """Return the error message of a training that must stop on all ranks together."""
    try:
        train(**options)
    except TrainingError as error:
        return str(error)
    raise AssertionError("the training did not stop")


def exchanges(steps: int, accumulation: int) -> int:
    """Count the exchanges of gradients; here one exchange holds all gradients."""
    sent: list[str] = []
    backend = active_backend()
    assert backend is not None
    send = backend.start_reduce

    def counted(x: Tensor, operation: Any, name: str) -> Callable[[], Tensor]:
        if name.startswith("gradients"):
            sent.append(name)
        return send(x, operation, name)

    backend.start_reduce = counted  # type: ignore[method-assign]
    try:
        train(steps * accumulation, changes={"accumulation": accumulation})
    finally:
        backend.start_reduce = send  # type: ignore[method-assign]
    return len(sent)


def gradients(dtype: str = "float32", changes: dict[str, Any] | None = None, **of_task: Any) -> dict[str, Any]:
    """Return the first step's losses and gradients as the optimizer would get them."""
    task = ToyTask(4, dtype=getattr(torch, dtype), **of_task)
    engine = Engine(task, settings(**(changes or {})), seed=1)
    task.model.train()
    parts: list[Tensor] = []
    for step in range(engine.accumulation):
        parts.append(engine._backward(task.batch(step), _Requests(False, False), parts))
    engine.exchange.finish()
    losses = distributed.all_reduce(torch.stack(parts).sum(0), "mean")
    return {"losses": losses, "gradients": {name: p.grad for name, p in engine.model.named_parameters() if p.requires_grad}}


def same(a: Any, b: Any) -> bool:
    """Return True if two nested values are bit-identical and in the same order."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def main(out: str, jobs: str) -> None:
    """Do jobs, `[["train", {...}], ...]`, on every rank; rank 0 writes the results."""
    distributed.init()
    functions: dict[str, Any] = {"train": train, "gradients": gradients, "stopped": stopped, "exchanges": exchanges}
    results = [functions[job](**options) for job, options in json.loads(jobs)]
    if distributed.rank() == 0:
        temporary = Path(out + ".temporary")
        torch.save(results, temporary)
        os.replace(temporary, out)
    distributed.barrier()
    distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
