"""Trainings on made batches: the four models at the paper's or at small sizes, without data, for measurements and checks.

B batch, T frames, L text tokens; sizes of the paper's trainings from arXiv 2112.09583, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from alpro.config import Model, Training
from alpro.data.batches.batch import Batch
from alpro.models import build_model
from alpro.models.timesformer import Checkpointing
from alpro.objectives import masked_positions
from alpro.training.flops import training_flops


@dataclass(frozen=True)
class Kind:
    """One of the four trainings: its sizes, its losses and the size of its head."""

    frames: int
    tokens: int
    losses: tuple[str, ...]
    batch: int  # per GPU
    head: Mapping[str, Any] = field(default_factory=dict)  # argument of build_model


TRAININGS = {
    "prompter": Kind(4, 30, ("vtc",), 16, {"num_entities": 1000}),
    "pretrain": Kind(4, 30, ("vtc", "vtm", "mlm", "pem"), 16, {"num_entities": 1000}),
    "retrieval": Kind(8, 40, ("vtc", "vtm"), 8),
    "qa": Kind(16, 40, ("qa",), 12, {"num_answers": 1500}),
}
SMALL = {
    name: Kind(2, 12, kind.losses, 4, {key: 20 for key in kind.head}) for name, kind in TRAININGS.items()
}  # every head has 20 classes
SMALL_MODEL = Model(
    image_size=32, patch_size=8, width=64, heads=2, intermediate=256, vision_layers=2, text_layers=2, fusion_layers=2,
    embed_dim=16, vocab_size=200, max_positions=32,
)  # fmt: skip


def made_batch(size: int, kind: Kind, model: Model, *, seed: int = 0, padded: bool = False) -> Batch:
    """Return random pixels, text with 15 % masked tokens, and a crop of 0.4 of the frame.

    Text has full length, or with `padded` lengths from half of it on.
    """
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(min(1000, model.vocab_size // 2), model.vocab_size, (size, kind.tokens), generator=g)
    lengths = torch.randint(kind.tokens // 2, kind.tokens + 1, (size, 1), generator=g) if padded else kind.tokens
    mask = (torch.arange(kind.tokens) < lengths).long().expand(size, -1).contiguous()
    ids = ids * mask
    labels = torch.where((torch.rand(ids.shape, generator=g) < 0.15) & (mask > 0), ids, -100)
    labels[:, 1] = ids[:, 1]
    side, patch = model.image_size, model.patch_size
    edge = round(0.63 * side / patch) * patch  # 0.63 squared is 0.4
    return Batch(
        corpus="made",
        ids=[f"made/{n}" for n in range(size)],
        pixels=torch.randint(0, 256, (size, kind.frames, 3, side, side), generator=g, dtype=torch.uint8),
        input_ids=ids,
        attention_mask=mask,
        mlm_input_ids=torch.where(labels >= 0, 103, ids),
        mlm_labels=labels,
        mlm_positions=torch.stack(masked_positions(labels)),
        crop_boxes=torch.tensor([[patch, patch, edge, edge]]).repeat(size, 1),
        labels=torch.randint(0, kind.head.get("num_answers", 1), (size,), generator=g),
    )


def made_model(name: str, kind: Kind, model: Model, checkpointing: Checkpointing = "none", seed: int = 0) -> Any:
    """Return a model with drawn weights; a prompter's entity prompts are drawn too."""
    built = build_model(
        name, num_frames=kind.frames, config=model, gradient_checkpointing=checkpointing, seed=seed, **kind.head
    )
    prompter = getattr(built, "prompter", None)
    if prompter is not None:
        g = torch.Generator().manual_seed(seed)
        for buffer in (prompter.video_prompt_feat, prompter.image_prompt_feat):
            buffer.copy_(nn.functional.normalize(torch.randn(buffer.shape, generator=g), dim=-1))
    return built


def neighbours(kind: Kind, device: torch.device) -> dict[str, Any]:
    """Return VTM's negatives, each row's neighbour, as an option of a model that has VTM. Drawn ones depend on rounding."""
    neighbour = torch.arange(kind.batch, device=device).roll(1)
    return {"negatives": (neighbour, neighbour)} if "vtm" in kind.losses else {}


class MadeTask:
    """A task of the engine that takes given batches, one for each step."""

    metrics = ("none",)
    counts = (0, 0)

    def __init__(
        self, name: str, kind: Kind, model: Model, batches: Sequence[Batch], checkpointing: Checkpointing = "none"
    ) -> None:
        self.model, self.losses = made_model(name, kind, model, checkpointing), kind.losses
        self.batches, self.steps = batches, len(batches)
        self.flops_per_clip = training_flops(name, model, kind.frames, kind.tokens)
        self.at_step: Callable[[int], None] = lambda step: None  # called before each step, and after the last one

    def plan_for(self, worlds: Any) -> int:
        """Return the number of steps."""
        return self.steps

    def epoch_of(self, micro_step: int) -> int:
        """Return 0: there is one epoch."""
        return 0

    def loader(self, start: int, stop: int) -> Any:
        """Return the batches of a range of steps."""
        return _MadeLoader(self, start, stop)

    def validate(self) -> dict[str, float]:
        """Call `at_step` for the end of the last step."""
        self.at_step(self.steps)
        return {"none": 0.0}


class _MadeLoader:
    """The batches of a `MadeTask`. Nothing is read, so nothing is unreadable."""

    counts = (0, 0)

    def __init__(self, task: MadeTask, start: int, stop: int) -> None:
        self.task, self.start, self.stop = task, start, stop

    def check_unreadable(self, left_out: int, read: int) -> None:
        """Accept every batch."""

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        for step in range(self.start, self.stop):
            self.task.at_step(step)
            yield step, self.task.batches[step]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing: the loader has no state."""


def made_settings(batch: int, **changes: Any) -> Training:
    """Return the settings of a training on made batches: one validation at the end, no log line before it."""
    values: dict[str, Any] = {
        "epochs": 1, "batch_size": batch, "learning_rate": 1e-4, "grad_clip": 5, "num_frames": 4, "max_text_tokens": 40,
        "validations": 1, "select_by": "none", "log_every": 10**6, "keep": ["last"],
    }  # fmt: skip
    return Training(**(values | changes))
