"""What a training holds in memory: weights, gradients, AdamW's moments, and the activations that backward needs.

Activations are counted from what each layer saves for backward with fused attention, which keeps queries, keys, values and
its output but no attention map (where no fused kernel serves dropout with a mask, as on CPUs, BERT's maps come on top).
A test compares these counts with what autograd saves. Not counted: a framework's own memory, and the workspace of kernels.
Letters: T frames, N patches, S = N*T, L text tokens, V = 1+N video tokens, D width, I hidden width of an MLP.
"""

from __future__ import annotations

from dataclasses import dataclass

from alpro.config import Model
from alpro.models.timesformer import Checkpointing
from alpro.training.flops import PASSES, patches_of

# in how many multimodal passes (flops.PASSES) the last layer computes all tokens, in how many the text's; else [CLS] alone
LAST_LAYERS = {"pretrain": (1, 1)}


@dataclass(frozen=True)
class Kept:
    """Numbers that are kept for backward: `full` ones in fp32 always, `half` ones in 16 bits under autocast."""

    full: float = 0.0
    half: float = 0.0

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.full + other.full, self.half + other.half)

    def __mul__(self, times: float) -> Kept:
        return Kept(self.full * times, self.half * times)

    def bytes(self, precision: str) -> float:
        """In bytes, in fp32, bf16 or fp16."""
        return 4 * self.full + (4 if precision == "fp32" else 2) * self.half


def activations(
    task: str, model: Model, frames: int, text_tokens: int, checkpointing: Checkpointing = "none"
) -> tuple[Kept, Kept]:
    """What one clip and its text keep until backward, and what recomputing one block needs besides with checkpointing."""
    videos, texts, fusions, _ = PASSES[task]
    stored, working = _video(model, frames, checkpointing, cls_only=not fusions)
    fused = text_tokens + 1 + patches_of(model)
    full, of_text = LAST_LAYERS.get(task, (0, 0))
    last = _bert_layer(model, fused) * full + Kept(half=3.0 * fused * model.width) * (fusions - full)  # input, keys, values
    last = last + _bert_layer(model, text_tokens) * of_text
    total = stored * videos + _bert_layer(model, text_tokens) * (model.text_layers * texts)
    total = total + _bert_layer(model, fused) * ((model.fusion_layers - 1) * fusions) + last
    return total, working


def _video(model: Model, frames: int, checkpointing: Checkpointing, cls_only: bool) -> tuple[Kept, Kept]:
    """The video encoder: all blocks, or with checkpointing their inputs, and one block that is recomputed."""
    tokens = patches_of(model) * frames + 1
    normed = 1 if cls_only else tokens
    ends = Kept(full=3.0 * model.image_size**2 * frames + normed * model.width)  # pixels, and the input of the last norm
    block = _block(model, frames)
    if checkpointing == "none":
        return ends + block * (model.vision_layers - 1) + _block(model, frames, cls_only), Kept()
    return ends + Kept(full=float(tokens * model.width)) * model.vision_layers, block


def _block(model: Model, frames: int, cls_only: bool = False) -> Kept:
    """Divided space-time attention: each norm keeps its input, each linear layer its own, attention q, k, v and its output."""
    space = patches_of(model) * frames  # S
    images, tokens = space + frames, space + 1
    if cls_only:  # neither queries of the patches nor an MLP
        return Kept(model.width * float(space + images), model.width * float(5 * space + 3 * images))
    norms = space + images + tokens
    linears = 5 * space + 5 * images + tokens
    return Kept(model.width * norms, model.width * linears + 2 * model.intermediate * tokens)


def _bert_layer(model: Model, tokens: int) -> Kept:
    """A BERT layer over so many tokens: two norms' inputs, four linear inputs, q, k, v, attention's output, the MLP's two."""
    return Kept(2.0 * model.width * tokens, (6.0 * model.width + 2.0 * model.intermediate) * tokens)


@dataclass(frozen=True)
class Memory:
    """Bytes that one process holds; `peak` is at most their sum, as gradients come while activations go."""

    weights: float
    frozen: float  # weights without gradients: the prompter's, in pre-training
    gradients: float
    moments: float
    activations: float
    recomputed: float  # one block, with gradient checkpointing
    casts: float  # 16-bit copies of the weights under autocast

    @property
    def peak(self) -> float:
        """The sum of all."""
        return sum(vars(self).values())


def memory(
    task: str,
    model: Model,
    *,
    trained: int,
    frozen: int,
    frames: int,
    text_tokens: int,
    batch: int,
    checkpointing: Checkpointing,
    precision: str,
) -> Memory:
    """Of a training with so many trained and frozen parameters and so many clips in a batch."""
    stored, working = activations(task, model, frames, text_tokens, checkpointing)
    return Memory(
        weights=4.0 * trained,
        frozen=4.0 * frozen,
        gradients=4.0 * trained,
        moments=8.0 * trained,
        activations=stored.bytes(precision) * batch,
        recomputed=working.bytes(precision) * batch,
        casts=0.0 if precision == "fp32" else 2.0 * (trained + frozen),
    )
