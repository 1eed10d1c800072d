"""Seeded weights and pixels of the goldens (see tests/goldens/README.md), and access to their files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alpro.data.batches.batch import Batch
from alpro.models import build_model

GOLDENS = Path(__file__).parent / "goldens"
NORMS = ("norm", "norm1", "norm2", "temporal_norm1", "LayerNorm")
TIED = {  # end of a key -> end of the key whose value it shares
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def draw(name: str, shape: Iterable[int]) -> Tensor:
    """Draw standard normal numbers, seeded by a name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % 2**63
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def value(key: str, tensor: Tensor) -> Tensor:
    """Return the recipe's value of an entry of a state dict."""
    for tail, source in TIED.items():
        if key.endswith(tail):
            return value(key.removesuffix(tail) + source, tensor)
    last, parent = key.split(".")[-1], key.split(".")[-2] if "." in key else ""
    if last == "position_ids":
        return torch.arange(tensor.shape[1])[None]
    if last == "temp":
        return torch.tensor(0.07)
    if last in ("video_prompt_feat", "image_prompt_feat"):
        return torch.nn.functional.normalize(draw(key, tensor.shape), dim=-1)
    v = draw(key, tensor.shape) * 0.02
    return 1 + v if last == "weight" and tensor.dim() == 1 and parent in NORMS else v


def fill(model: nn.Module) -> nn.Module:
    """Load the recipe's weights into a model, which may be on the meta device."""
    state: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        source = next((key.removesuffix(tail) + s for tail, s in TIED.items() if key.endswith(tail)), key)
        if source not in state:
            state[source] = value(source, tensor)
        state[key] = state[source]
    model.load_state_dict(state, assign=True)
    for module in model.modules():
        if hasattr(module, "tie"):
            module.tie()
    return model


def model_of(task: str, **arguments: Any) -> nn.Module:
    """Build a full-size model with the recipe's weights, in evaluation mode."""
    return fill(build_model(task, seed=None, **arguments)).eval()


def pixels(names: Iterable[str], frames: int, size: int = 224) -> Tensor:
    """Return normalised clips (B, T, 3, S, S)."""
    return torch.stack([draw(f"pixels:{name}:{frames}x3x{size}x{size}", (frames, 3, size, size)) for name in names])


def batch_of(case: dict[str, Any]) -> Batch:
    """Return the batch that a case's JSON describes."""
    media = "image" if case.get("type") == "img" else "video"
    if media == "image":
        clips = pixels(case["pixels"], 1, case["size"]).expand(-1, case["T"], -1, -1, -1)
    else:
        clips = pixels(case["pixels"], case["T"], case["size"])
    named = {
        "mlm_input_ids": "mlm_input_ids",
        "mlm_labels": "mlm_labels",
        "labels": "labels",
        "crop_boxes": "crop_boxes_left_top_w_h",
    }
    rest = {name: torch.tensor(case[key]) for name, key in named.items() if key in case}
    ids, mask = torch.tensor(case["input_ids"]), torch.tensor(case["attention_mask"])
    return Batch("golden", list(case["pixels"]), clips, ids, mask, media=media, **rest)


@cache
def case(name: str) -> dict[str, Any]:
    """Load a case's JSON."""
    return json.loads((GOLDENS / f"{name}.json").read_text())


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    """Load a case's arrays."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}
