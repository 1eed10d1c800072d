"""A look inside: the entities that the prompter finds in crops, and the attention of the multimodal encoder for a word.

As in the paper's figures (arXiv 2112.09583, section 3.3 and appendix). Letters: T frames, S frame side in pixels, N patches,
L text tokens, D width, E entities.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from alpro.checkpoints.layout import CONFIG, WEIGHTS
from alpro.data.batches.masking import crop_box
from alpro.data.text.entities import read_entities
from alpro.errors import CheckpointError
from alpro.evaluation.sharing import evaluating
from alpro.files.json_files import read_json_object
from alpro.models.bert import Bert, additive
from alpro.models.encoders import black, normalize
from alpro.models.prompter import Prompter
from alpro.objectives import pem
from alpro.registry.versions import PARENT_VERSIONS, find
from alpro.served.limits import RequestError
from alpro.served.sources import REGISTRY
from alpro.served.versions import Version
from alpro.serving.service import Service
from alpro.tracking import store

ENTITIES = "entities.txt"
SHOWN = 4  # entities of a crop
NO_PROMPTER = (
    "There is no pre-trained model with a prompter on this machine, so no entities can be shown. "
    "Pre-train one (`make repro`), or put its checkpoint below models/."
)


@dataclass(frozen=True, slots=True)
class Crop:
    """A crop of a clip and its likeliest entities with their probabilities. `box`: left, top, width, height, as fractions."""

    box: tuple[float, float, float, float]
    entities: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text, and how much it attends to each patch: (side, side) float32 that sums to `share`.

    `share` is the part of the word's attention that goes to patches; the rest goes to words and to the clip's CLS token.
    """

    word: str
    heat: NDArray[np.float32]
    share: float


@dataclass(frozen=True, eq=False)
class EntityModel:
    """A prompter with its list of entities. `name`: the pre-trained model that it is part of."""

    name: str
    model: Prompter
    entities: Sequence[str]


class Prompters:
    """The prompter that belongs to the model in use; loaded when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._loaded: EntityModel | None = None
        self._lock = threading.Lock()

    def of(self, version: Version) -> EntityModel:
        """Return the prompter that a version was pre-trained with, else that of the newest pre-training on disk.

        Raises RequestError (503) if there is none.
        """
        with self._lock:
            parent = self._parent(version)
            if parent and self._loaded and self._loaded.name == parent:
                return self._loaded
            if parent:
                with tempfile.TemporaryDirectory(prefix="alpro-prompter-") as temporary:
                    self._loaded = _load_prompter(self._unpacked(parent, Path(temporary)), parent)
                return self._loaded
            newest = max(self.root.glob(f"models/*/pretrain/{ENTITIES}"), key=lambda path: path.stat().st_mtime, default=None)
            if newest is None or not (newest.parent / WEIGHTS).is_file():
                raise RequestError(503, "no_prompter", NO_PROMPTER)
            name = newest.parent.relative_to(self.root).as_posix()
            if self._loaded is None or self._loaded.name != name:
                self._loaded = _load_prompter(newest.parent, name)
            return self._loaded

    def _parent(self, version: Version) -> str | None:
        if version.origin != "champion":
            return None
        with REGISTRY, store.opened(self.root) as opened:
            parents = find(opened, f"models:/{version.name}").tags.get(PARENT_VERSIONS, "").split(", ")
        return next((name for name in parents if name.startswith("alpro-pretrain/")), None)

    def _unpacked(self, name: str, folder: Path) -> Path:
        from alpro.registry.evaluate import unpack

        with REGISTRY, store.opened(self.root) as opened:
            return unpack(opened, find(opened, f"models:/{name}"), folder / "model").checkpoint


def see_entities(prompter: EntityModel, frames: Tensor, count: int, seed: int) -> list[Crop]:
    """Draw crops of a clip (T, 3, S, S) uint8 as the pre-training does, and return what the prompter sees in each."""
    size, patch = prompter.model.config.image_size, prompter.model.config.patch_size
    rng = np.random.RandomState(seed % 2**32)
    boxes = [crop_box(rng, size, patch) for _ in range(count)]
    with evaluating(prompter.model) as device:
        clip = normalize(_sampled(frames, prompter.model.num_frames, size).to(device))[None].expand(count, -1, -1, -1, -1)
        inside = pem.boxes_to_mask(torch.tensor(boxes, device=device), size, size)
        logits = prompter.model.entity_logits(pem.crop(clip, inside, black(device)), "video")
        likeliest, labels = pem.soft_labels(logits).topk(min(SHOWN, len(prompter.entities)))
    return [
        Crop(
            cast(Any, tuple(side / size for side in box)), [(prompter.entities[n], p) for n, p in zip(row, values, strict=True)]
        )
        for box, row, values in zip(boxes, labels.tolist(), likeliest.tolist(), strict=True)
    ]


def see_words(service: Service, tokens: Tensor, text: str) -> list[Word]:
    """Return where each word of a text looks in a clip (1, 1+N, D): attention of the last multimodal layer, mean over heads.

    Words beyond the model's text length are left out.
    """
    given = service.tokenizer(text, truncation=True, max_length=service.max_text_tokens)
    words: dict[int, list[int]] = {}
    for position, number in enumerate(given.word_ids()):
        if number is not None:
            words.setdefault(number, []).append(position)
    with evaluating(service.model) as device:
        ids = torch.tensor([given["input_ids"]], device=device)
        mask = torch.ones_like(ids)
        encoded = service.model.encode_text(ids, mask)
        last = fusion_attention(service.model.bert, encoded, mask, tokens.to(device))[-1, 0].mean(0)
    patches = last[:, ids.shape[1] + 1 :]  # after the text and the clip's CLS
    side = round(patches.shape[1] ** 0.5)
    found = []
    for number, positions in words.items():
        span = given.word_to_chars(number)
        heat = patches[positions].mean(0).reshape(side, side).float().cpu().numpy()
        found.append(Word(text[span.start : span.end], heat, float(heat.sum())))
    return found


def fusion_attention(bert: Bert, text: Tensor, text_mask: Tensor, video: Tensor) -> Tensor:
    """Return the attention probabilities inside `bert.fuse`: (layers, B, heads, L+V, L+V), for V tokens of a clip.

    Row i of a matrix says how much token i takes from each token; it sums to 1. `fuse` computes the same probabilities in a
    fused kernel, which does not return them.
    """
    x = torch.cat([text, video], 1)
    mask = additive(F.pad(text_mask, (0, video.shape[1]), value=1), x.dtype)
    layers = []
    for layer in bert.layers[bert.text_layers :]:
        attention = layer.attention.self
        query, key = (_heads(project(x), attention) for project in (attention.query, attention.key))
        layers.append(((query * attention.scaling) @ key.transpose(-2, -1) + mask).softmax(-1))
        x = layer(x, mask)
    return torch.stack(layers)


def _heads(x: Tensor, attention: nn.Module) -> Tensor:
    """Split (B, L, D) into heads: (B, heads, L, head width)."""
    return x.unflatten(-1, (cast(int, attention.num_attention_heads), -1)).transpose(1, 2)


def _sampled(frames: Tensor, count: int, size: int) -> Tensor:
    """Return `count` evenly spaced frames (count, 3, size, size), if another model reads more or larger ones."""
    chosen = frames[torch.linspace(0, len(frames) - 1, count).round().long()]
    if chosen.shape[-1] == size:
        return chosen
    return F.interpolate(chosen.float(), size=(size, size), mode="bilinear", antialias=True).round().to(torch.uint8)


def _load_prompter(folder: Path, name: str) -> EntityModel:
    """Load the prompter inside a pre-trained model. Raises RequestError (503) if it was pre-trained without PEM."""
    import alpro.models  # noqa: F401  before transformers: it makes torchvision importable
    from alpro.checkpoints.load import load_model

    number = read_json_object(folder / CONFIG, CheckpointError, "pre-train again").get("num_entities")
    if not number:
        raise RequestError(503, "no_prompter", f"{name} was pre-trained without a prompter (PEM), so no entities can be shown.")
    model, _, _ = load_model(folder, "prompter", num_entities=number)
    return EntityModel(name, cast(Prompter, model), read_entities(folder / ENTITIES, number))
