"""Loading of weights into models: by the table of names, resized where allowed; every other difference is an error.

state, info = load_checkpoint("alpro_pretrained.pt")      # or a directory of our own
model = build_model("retrieval", num_frames=8)
print(load_into(model, state, info))                      # what was loaded, resized, dropped, left new
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from alpro.checkpoints import names
from alpro.checkpoints.files import Info, State, load_checkpoint, task_of_model
from alpro.config import Model
from alpro.errors import CheckpointError
from alpro.files.names import brief, some
from alpro.models.heads import Alpro, build_model
from alpro.models.timesformer import resize_grid, resize_time

Resize = Literal["flat_nearest", "bicubic"]
HINTS = {  # likely cause of a wrong shape, by the end of the name
    "word_embeddings.weight": "the vocabulary differs: use the checkpoint's tokenizer",
    "classifier.2.weight": "the answer list differs: build the model with the checkpoint's num_answers and answers",
    "mpm_head.2.weight": "the entity list differs: build the model with the checkpoint's num_entities and entities",
}
SHOWN = 6  # differences listed in an error
MODULES = 20  # modules listed in a report


@dataclass
class LoadReport:
    """Result of loading a checkpoint: which tensors were loaded, resized, dropped or left new; str() summarises it.

    `unwrapped`: sentences on what a trainer had wrapped around them.
    """

    source: str
    target: str
    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unwrapped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source} weights into the {self.target}: {len(self.loaded)} tensors loaded"]
        lines += [f"  {sentence}" for sentence in self.unwrapped]
        lines += [f"  resized {key}: {change}" for key, change in self.resized.items()]
        if self.dropped:
            lines.append(f"  not used: {_by_module(self.dropped)}")
        if self.new:
            lines.append(f"  not in the checkpoint, left as initialised: {_by_module(self.new)}")
        return "\n".join(lines)


def load_into(
    model: Alpro, state: Mapping[str, Tensor], info: Mapping[str, Any] | None = None, resize: Resize = "flat_nearest"
) -> LoadReport:
    """Copy a checkpoint's tensors into a model of the same task, or of another one if names.TRANSFERS allows it.

    Position embeddings of other sizes are resized: in time to the nearest, in space as the released code does
    (`flat_nearest`, over the flattened patches) or in two dimensions (`bicubic`). A prompter's prompts of another entity list
    are dropped; recompute them with `set_prompts`. Every other difference raises CheckpointError, which names the tensors,
    before anything is changed.
    """
    source = (info or {}).get("task") or names.task_of(state)
    target = task_of_model(model)
    where = (info or {}).get("source", f"{source} checkpoint")
    rule = names.transfer(source, target)
    # Names of both sides get the `.bert` level, which question answering lacks.
    have = {names.with_bert(key): tensor for key, tensor in state.items()}
    needed = {names.with_bert(key): tensor for key, tensor in model.state_dict().items()}
    if rule.take:
        have = {key.removeprefix(rule.take): tensor for key, tensor in have.items() if key.startswith(rule.take)}
        if not have:
            raise CheckpointError(
                f"{where}: has no {rule.take}* tensors: it was pre-trained without PEM; use one that was pre-trained with PEM"
            )
    drop, new = rule.drop, rule.new
    if source == target == "pretrain":  # only one side may have PEM
        drop = tuple(part for part in names.PEM_PARTS if not any(key.startswith(part) for key in needed))
        new = tuple(part for part in names.PEM_PARTS if not any(key.startswith(part) for key in have))

    def optional(key: str) -> bool:
        return key.startswith(names.UNUSED_WEIGHTS[target]) or key.endswith((names.CONSTANT, *names.PROMPTS))

    report = LoadReport(source, f"{target} model", unwrapped=list((info or {}).get("unwrapped", ())))
    return fit(needed, have, report, where, drop=drop, new=new, optional=optional, resize=resize)


def fit(
    needed: Mapping[str, Tensor],
    have: Mapping[str, Tensor],
    report: LoadReport,
    where: str,
    *,
    drop: tuple[str, ...] = (),
    new: tuple[str, ...] = (),
    optional: Callable[[str], bool] = lambda key: False,
    resize: Resize = "flat_nearest",
) -> LoadReport:
    """Copy a file's tensors (`have`) into a model's (`needed`), and record in the report what happened to each.

    Names that start with `drop` are ignored in the file; names that start with `new` may be missing in it; `optional` ones
    may be missing, unknown or of another shape. Raises CheckpointError that lists every other difference before copying.
    """
    copies: State = {}
    differences: list[str] = []
    for key, tensor in have.items():
        like = needed.get(key)
        if (drop and key.startswith(drop)) or (like is None and optional(key)):
            report.dropped.append(key)
        elif like is None:
            differences.append(f"{brief(key)} is unknown to the model")
        elif tensor.shape == like.shape:
            copies[key] = tensor
        elif (fitted := _resized(key, tensor, like, resize)) is not None:
            copies[key] = fitted
            report.resized[key] = f"{_dims(tensor)} to {_dims(like)}"
        elif optional(key):
            report.dropped.append(key)
        else:
            hint = next((f" ({text})" for end, text in HINTS.items() if key.endswith(end)), "")
            differences.append(f"{brief(key)} is {_dims(tensor)}, the model's {_dims(like)}{hint}")
    for key in needed:
        if key in copies or (key in have and key not in report.dropped):
            continue
        if optional(key) or (new and key.startswith(new)):
            report.new.append(key)
        else:
            differences.append(f"{key} is missing")
    if differences:
        more = f"; and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise CheckpointError(f"{where} does not fit the {report.target}: {'; '.join(differences[:SHOWN])}{more}")
    with torch.no_grad():
        for key, tensor in copies.items():
            needed[key].copy_(tensor)
    report.loaded = sorted(copies)
    return report


def load_model(
    path: str | Path, task: str | None = None, *, resize: Resize = "flat_nearest", sanitize: bool = False, **overrides: Any
) -> tuple[Alpro, Info, LoadReport]:
    """Build the model that a checkpoint describes, for its own task or another, and load the weights.

    `overrides` are arguments of `build_model` (num_frames, image_size, num_answers, config, ...). `sanitize`: read a pickle
    with code as data. Returns the model in
    evaluation mode, the checkpoint's description and the report. Raises the errors of `load_checkpoint`, `build_model` and
    `load_into`.
    """
    state, info = load_checkpoint(path, sanitize)
    try:
        sizes = Model(**info["model"])
    except (ValidationError, TypeError) as error:
        raise CheckpointError(f"{path}: its config.json describes no model ({str(error).splitlines()[0]})") from None
    arguments: dict[str, Any] = {"num_frames": info["num_frames"], "config": sizes}
    arguments |= {key: info[key] for key in ("num_answers", "num_entities") if key in info}
    model = build_model(task or info["task"], **(arguments | overrides))
    report = load_into(model, state, info, resize)
    return model.eval(), info, report


def _resized(key: str, tensor: Tensor, like: Tensor, mode: Resize) -> Tensor | None:
    """Resize a position embedding to the size of another; None for every other tensor."""
    if tensor.dim() != 3 or tensor.shape[-1] != like.shape[-1]:
        return None
    if key.endswith("visual_encoder.model.time_embed"):
        return resize_time(tensor.float(), like.shape[1])
    if not key.endswith("visual_encoder.model.pos_embed"):
        return None
    cls, positions = tensor[:, :1].float(), tensor[:, 1:].float()
    old, now = (round(n**0.5) for n in (positions.shape[1], like.shape[1] - 1))
    if old * old != positions.shape[1]:
        return None
    if mode == "bicubic":
        positions = resize_grid(positions, (old, old), (now, now), "bicubic")
    else:
        positions = F.interpolate(positions.transpose(1, 2), size=now * now, mode="nearest").transpose(1, 2)
    return torch.cat([cls, positions], 1)


def _dims(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _by_module(keys: list[str]) -> str:
    """Summarise names by their module: `prompter (463), mpm_head (4)`."""
    counts: dict[str, int] = {}
    for key in keys:
        depth = {"visual_encoder": 3, "text_encoder": 2}.get(key.split(".")[0], 1)
        module = ".".join(key.split(".")[:depth])
        counts[module] = counts.get(module, 0) + 1
    return some([f"{module} ({count})" for module, count in counts.items()], MODULES)
