"""Nominal FLOPs of a training step, for model FLOPs utilisation (sizes: arXiv 2112.09583, section 4.1).

Counted are multiply-accumulates of one clip and one text in each part: attention yes, norms and softmax no. A backward pass
costs two forward passes. Recomputation (gradient checkpointing) and augmentation are not counted. Work that the models save,
because nothing reads the result or two layers are merged, is counted (see tests/training/test_flops.py).
Letters: T frames, N patches, L text tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alpro.config import Model

# passes of one training clip through: video encoder, text encoder, multimodal encoder, the frozen prompter's video encoder
PASSES = {"prompter": (1, 1, 0, 0), "pretrain": (1, 2, 4, 1), "retrieval": (1, 1, 3, 0), "qa": (1, 1, 1, 0)}


@dataclass(frozen=True)
class GPU:
    """Data-sheet values of a GPU: FLOP/s of dense matrix multiplication, and memory in GB (1e9 bytes)."""

    half: float  # bf16 or fp16
    single: float  # fp32, without TF32
    memory_gb: int


# key: a word of the device's name
GPUS = {
    "H200": GPU(989e12, 67e12, 141),
    "H100": GPU(989e12, 67e12, 80),
    "A100": GPU(312e12, 19.5e12, 80),
    "L40": GPU(181e12, 90.5e12, 48),
    "L4": GPU(121e12, 30.3e12, 24),
    "V100": GPU(125e12, 15.7e12, 32),
    "4090": GPU(165e12, 82.6e12, 24),
}


def patches_of(model: Model) -> int:
    """Return the number of patches of a frame, N."""
    return (model.image_size // model.patch_size) ** 2


def video_macs(model: Model, frames: int) -> float:
    """Return the MACs of the video encoder: divided space-time attention, with [CLS] repeated per frame in the spatial one."""
    patches = patches_of(model)
    tokens, width = patches * frames, model.width
    temporal = 5 * width**2 * tokens + 2 * frames * tokens * width
    spatial = 4 * width**2 * (tokens + frames) + 2 * (patches + 1) ** 2 * frames * width
    mlp = 2 * width * model.intermediate * (tokens + 1)
    return model.vision_layers * (temporal + spatial + mlp) + tokens * 3 * model.patch_size**2 * width


def bert_macs(model: Model, layers: int, tokens: int) -> float:
    """Return the MACs of BERT layers on a number of tokens."""
    dense = (4 * model.width**2 + 2 * model.width * model.intermediate) * tokens
    return layers * (dense + 2 * tokens**2 * model.width)


def training_flops(task: str, model: Model, frames: int, text_tokens: int, texts_per_clip: float = 1) -> float:
    """Return the FLOPs of one clip with one text in one training step; `texts_per_clip` texts share the encoding of a clip."""
    patches = patches_of(model)
    video, text = video_macs(model, frames), bert_macs(model, model.text_layers, text_tokens)
    fusion = bert_macs(model, model.fusion_layers, text_tokens + 1 + patches)
    videos, texts, fusions, frozen = PASSES[task]
    video /= texts_per_clip
    return 2 * (3 * (videos * video + texts * text + fusions * fusion) + frozen * video)


def recomputed_flops(task: str, model: Model, frames: int, texts_per_clip: float = 1) -> float:
    """Return the FLOPs that gradient checkpointing adds per text: the video encoder's forward pass again."""
    return 2 * PASSES[task][0] * video_macs(model, frames) / texts_per_clip


def validation_flops(task: str, model: Model, frames: int, text_tokens: int, clips: int, texts: int) -> float:
    """Return the FLOPs of one validation: encode each clip and text once, then fuse every pair (retrieval) or question (QA)."""
    video, text = video_macs(model, frames), bert_macs(model, model.text_layers, text_tokens)
    fusion = bert_macs(model, model.fusion_layers, text_tokens + 1 + patches_of(model))
    if task in ("retrieval", "qa"):
        return 2 * (clips * video + texts * text + (clips if task == "retrieval" else 1) * texts * fusion)
    videos, passes, fusions, frozen = PASSES[task]  # the losses of the validation split
    return 2 * clips * ((videos + frozen) * video + passes * text + fusions * fusion)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the device's peak FLOP/s in half precision; None if it is unknown or the training runs in fp32."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    return next((gpu.half for word, gpu in GPUS.items() if word in name), None)
