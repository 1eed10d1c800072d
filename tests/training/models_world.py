"""Gradients of one step of the four models, in small sizes, on one process of a world.

As a script: `python -m tests.training.models_world OUT.pt [TASK ...]`. Dropout is off and VTM's negatives are fixed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alpro import distributed
from alpro.config import PEM, Model, Objectives
from alpro.data.batches.batch import Batch
from alpro.models import build_model
from alpro.models.encoders import Announce, Output, ignore_counts, normalize
from alpro.training.engine import Engine, _Requests
from tests.training.toy import settings

ROWS = 8
SIZES = Model(
    image_size=32, patch_size=8, width=32, heads=2, intermediate=64, vision_layers=2, text_layers=1, fusion_layers=1,
    embed_dim=16, vocab_size=60, max_positions=16, dropout=0.0, drop_path=0.0,
)  # fmt: skip
LOSSES = {
    "prompter": ("vtc",), "pretrain": ("vtc", "vtm", "mlm", "pem"), "retrieval": ("vtc", "vtm"), "qa": ("qa",),
    "counted": ("mlm", "pem"),  # pre-training with only the losses that are means over uneven counts
    "retrieval_shared": ("vtc", "vtm"), "qa_shared": ("qa",),  # two texts per clip
}  # fmt: skip
KINDS = {"counted": "pretrain", "retrieval_shared": "retrieval", "qa_shared": "qa"}  # model of a task, if not its name


def batch_of(rows: slice) -> Batch:
    """Return rows of one global batch; masked tokens and labelled answers are distributed unevenly."""
    g = torch.Generator().manual_seed(9)
    pixels = torch.randint(0, 256, (ROWS, 2, 3, 32, 32), generator=g).to(torch.uint8)
    ids = torch.randint(5, 60, (ROWS, 7), generator=g)
    mask = (torch.arange(7) < torch.randint(3, 8, (ROWS, 1), generator=g)).long()
    mask[:, :3] = 1
    labels = torch.full((ROWS, 7), -100)
    labels[0, 1] = labels[1, 1] = labels[5, 1] = labels[5, 2] = labels[7, 2] = 8
    answers = torch.tensor([1, -100, -100, 0, 2, -100, 1, 2])
    boxes = torch.tensor([[8, 0, 16, 24]]).expand(ROWS, -1)
    return Batch(
        corpus="made", ids=[f"made/{n}" for n in range(ROWS)][rows], pixels=pixels[rows], input_ids=ids[rows],
        attention_mask=mask[rows], mlm_input_ids=ids[rows].roll(1, 1), mlm_labels=labels[rows], crop_boxes=boxes[rows],
        labels=answers[rows],
    )  # fmt: skip


def shared(batch: Batch) -> Batch:
    """Return the batch with one clip for every two texts."""
    return replace(batch, pixels=batch.pixels[::2], clips=torch.arange(len(batch)) // 2)


class WithNegatives(nn.Module):
    """A model with fixed VTM negatives: each row's neighbour, which is on the same process in a world of up to four.

    With two texts per clip the neighbour has the same clip, and VTM gets no negatives.
    """

    def __init__(self, task: str) -> None:
        super().__init__()
        kind = KINDS.get(task, task)
        arguments: dict[str, Any] = {"prompter": {"num_entities": 4}, "qa": {"num_answers": 3}}.get(kind, {})
        if kind == "pretrain":
            # the threshold keeps few crops, and a different number on each rank
            objectives = Objectives(vtm=0.5) if task == kind else Objectives(vtc=0, vtm=0)
            arguments = {"num_entities": 4, "objectives": objectives, "pem": PEM(threshold=0.344)}
        self.task, self.inner = task, build_model(kind, num_frames=2, config=SIZES, seed=3, **arguments)
        if kind == "pretrain":
            g = torch.Generator().manual_seed(1)
            for name in ("video_prompt_feat", "image_prompt_feat"):
                feature = nn.functional.normalize(torch.randn(4, 16, generator=g), dim=-1)
                getattr(self.inner.prompter, name).copy_(feature)
            self.inner.prompter.temp.fill_(0.5)

    def forward(self, batch: Batch, announce: Announce = ignore_counts) -> Output:
        if self.task not in ("pretrain", "retrieval", "retrieval_shared"):
            return self.inner(batch, announce=announce)
        neighbour = torch.arange(0 if batch.clips is not None else len(batch)) ^ 1
        return self.inner(batch, negatives=(neighbour, neighbour), announce=announce)


class OneStep:
    """A task for the gradients of a single step."""

    metrics, flops_per_clip = ("score",), 0.0

    def __init__(self, task: str, kind: torch.dtype) -> None:
        self.model, self.losses = WithNegatives(task).to(kind), LOSSES[task]

    def plan_for(self, worlds: Any) -> int:
        return 1


def gradients(
    kind: torch.dtype = torch.float32, part: slice | None = None, tasks: Iterable[str] = LOSSES, **changes: Any
) -> dict[str, dict[str, Any]]:
    """Return losses, counts and gradients of each task, for the whole world's batch or a part of it."""
    share = ROWS // distributed.size()
    mine = batch_of(part or slice(distributed.rank() * share, (distributed.rank() + 1) * share))
    mine = replace(mine, pixels=normalize(mine.pixels).to(kind))
    results: dict[str, dict[str, Any]] = {}
    for task in tasks:
        toy: Any = OneStep(task, kind)
        engine = Engine(toy, settings(validations=1, **changes), seed=1)
        toy.model.train()
        given = shared(mine) if task.endswith("shared") else mine
        losses: Tensor = engine._backward(given, _Requests(False, False))
        engine.exchange.finish()
        counts = {name: int(count) for name, count in toy.model(given).counts.items()}
        results[task] = {
            "losses": distributed.all_reduce(losses, "mean"),
            "counts": distributed.gather_objects(counts),
            "ranks": distributed.gather_objects((distributed.rank(), distributed.local_rank())),
            "gradients": {name: p.grad for name, p in engine.model.named_parameters() if p.requires_grad},
        }
    return results


def run_rank(out: str | Path, tasks: Iterable[str]) -> None:
    """Join the world, compute the gradients of its ranks, and write them to a file on rank 0."""
    distributed.init()
    result = {
        "float32": gradients(tasks=tasks),
        "float64": gradients(torch.float64, tasks=tasks),
        "processes": gradients(torch.float64, tasks=tasks, average="processes"),
    }
    if distributed.rank() == 0:
        torch.save(result, out)
    distributed.barrier()
    distributed.shutdown()


if __name__ == "__main__":
    run_rank(sys.argv[1], sys.argv[2:] or LOSSES)
