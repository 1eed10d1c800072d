"""Estimates the memory of a training: weights, gradients, AdamW's moments, and the activations stored for backward.

Activations are counted from what each layer saves for backward with fused attention: queries, keys, values and the output,
but no attention map. Without a fused kernel (dropout with a mask on CPUs), BERT's attention maps come on top. A test
compares these counts with what autograd saves. Not counted: the framework's own memory, and workspace of kernels.
Letters: T frames, N patches, S = N*T, L text tokens, V = 1+N video tokens, D width, I hidden width of an MLP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alpro.config import Finetuning, Model, Training
from alpro.models import build_model
from alpro.models.timesformer import Checkpointing
from alpro.training.flops import PASSES, patches_of

# number of multimodal passes (flops.PASSES) whose last layer computes all tokens, and only the text's; the others: [CLS] only
LAST_LAYERS = {"pretrain": (1, 1)}


@dataclass(frozen=True)
class SavedForBackward:
    """Counts of stored numbers: `full` ones are always fp32, `half` ones have 16 bits under autocast."""

    full: float = 0.0
    half: float = 0.0

    def __add__(self, other: SavedForBackward) -> SavedForBackward:
        return SavedForBackward(self.full + other.full, self.half + other.half)

    def __mul__(self, times: float) -> SavedForBackward:
        return SavedForBackward(self.full * times, self.half * times)

    def bytes(self, precision: str) -> float:
        """Return the size in bytes, in fp32, bf16 or fp16."""
        return 4 * self.full + (4 if precision == "fp32" else 2) * self.half


def activations(
    task: str, model: Model, frames: int, text_tokens: int, checkpointing: Checkpointing = "none", texts_per_clip: int = 1
) -> tuple[SavedForBackward, SavedForBackward]:
    """Return what one text and its clip store until backward, and what recomputing one block adds under checkpointing.

    Each of the `texts_per_clip` texts of a clip has its share of what the clip stores.
    """
    videos, texts, fusions, _ = PASSES[task]
    stored, working = _video(model, frames, checkpointing, cls_only=not fusions)
    fused = text_tokens + 1 + patches_of(model)
    full_passes, text_passes = LAST_LAYERS.get(task, (0, 0))
    cls_pass = SavedForBackward(half=3.0 * fused * model.width)  # input, keys, values
    last = _bert_layer(model, fused) * full_passes + cls_pass * (fusions - full_passes)
    last = last + _bert_layer(model, text_tokens) * text_passes
    total = stored * (videos / texts_per_clip) + _bert_layer(model, text_tokens) * (model.text_layers * texts)
    total = total + _bert_layer(model, fused) * ((model.fusion_layers - 1) * fusions) + last
    return total, working * (1 / texts_per_clip)


def _video(
    model: Model, frames: int, checkpointing: Checkpointing, cls_only: bool
) -> tuple[SavedForBackward, SavedForBackward]:
    """Count the video encoder: all blocks, or under checkpointing their inputs, and one block that is recomputed."""
    tokens = patches_of(model) * frames + 1
    normed = 1 if cls_only else tokens
    # pixels, and the input of the last norm
    ends = SavedForBackward(full=3.0 * model.image_size**2 * frames + normed * model.width)
    block = _block(model, frames)
    if checkpointing == "none":
        return ends + block * (model.vision_layers - 1) + _block(model, frames, cls_only), SavedForBackward()
    return ends + SavedForBackward(full=float(tokens * model.width)) * model.vision_layers, block


def _block(model: Model, frames: int, cls_only: bool = False) -> SavedForBackward:
    """Count divided space-time attention: inputs of norms and linear layers, and q, k, v and output of attention."""
    space = patches_of(model) * frames  # S
    images, tokens = space + frames, space + 1
    if cls_only:  # no queries of the patches and no MLP
        return SavedForBackward(model.width * float(space + images), model.width * float(5 * space + 3 * images))
    norms = space + images + tokens
    linears = 5 * space + 5 * images + tokens
    return SavedForBackward(model.width * norms, model.width * linears + 2 * model.intermediate * tokens)


def _bert_layer(model: Model, tokens: int) -> SavedForBackward:
    """Count a BERT layer: inputs of two norms and four linear layers, q, k, v and output of attention, two of the MLP."""
    return SavedForBackward(2.0 * model.width * tokens, (6.0 * model.width + 2.0 * model.intermediate) * tokens)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process. The real peak is at most `peak`: gradients appear while activations are freed."""

    weights: float
    frozen: float  # weights without gradients: the prompter's, in pre-training
    gradients: float
    moments: float
    activations: float
    recomputed: float  # one block, with gradient checkpointing
    casts: float  # 16-bit copies of the weights under autocast

    @property
    def peak(self) -> float:
        """Sum of all parts."""
        return sum(vars(self).values())


def training_memory(kind: str, model: Model, settings: Training, **heads: int) -> tuple[int, int, MemoryEstimate]:
    """Return the parameters of a training's model, the number of those that it trains, and the memory of one process.

    `heads`: the sizes of `build_model` that the task needs. No weights are allocated.
    """
    sizes: dict[str, Any] = {**heads}
    built = build_model(kind, num_frames=settings.num_frames, config=model, seed=None, **sizes)
    parameters = sum(p.numel() for p in built.parameters())
    trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
    estimate = estimate_memory(
        kind,
        model,
        trained=trained,
        frozen=parameters - trained,
        frames=settings.num_frames,
        text_tokens=settings.max_text_tokens,
        batch=settings.batch_size,
        checkpointing=settings.gradient_checkpointing,
        precision=settings.precision,
        texts_per_clip=settings.texts_per_clip if isinstance(settings, Finetuning) else 1,
    )
    return parameters, trained, estimate


def estimate_memory(
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
    texts_per_clip: int = 1,
) -> MemoryEstimate:
    """Estimate the peak memory of one process; `trained` and `frozen` are numbers of parameters, `batch` of texts."""
    stored, working = activations(task, model, frames, text_tokens, checkpointing, texts_per_clip)
    return MemoryEstimate(
        weights=4.0 * trained,
        frozen=4.0 * frozen,
        gradients=4.0 * trained,
        moments=8.0 * trained,
        activations=stored.bytes(precision) * batch,
        recomputed=working.bytes(precision) * batch,
        casts=0.0 if precision == "fp32" else 2.0 * (trained + frozen),
    )
