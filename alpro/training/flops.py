"""Nominal arithmetic of a training step, for model FLOPs utilisation (paper section 4.1 has the sizes).

Multiply-accumulates of one clip and one text through each part, attention included, norms and softmax not. A backward pass
costs two forwards; recomputation (gradient checkpointing) and augmentation count as nothing.
Letters: T frames, N patches, L text tokens, D width.
"""

from __future__ import annotations

import torch

from alpro.config import Model

# parts that one clip of a training goes through: video encoder, text encoder, multimodal encoder, the frozen prompter's video
PASSES = {"prompter": (1, 1, 0, 0), "pretrain": (1, 2, 4, 1), "retrieval": (1, 1, 3, 0), "qa": (1, 1, 1, 0)}
# dense bf16/fp16 matrix multiplication, FLOP/s, by a word in the device's name (makers' data sheets)
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12, "V100": 125e12, "4090": 165e12}


def video_macs(model: Model, frames: int) -> float:
    """The video encoder: divided space-time attention, the [CLS] repeated per frame in the spatial one."""
    patches = (model.image_size // model.patch_size) ** 2
    tokens, width = patches * frames, model.width
    temporal = 5 * width**2 * tokens + 2 * frames * tokens * width
    spatial = 4 * width**2 * (tokens + frames) + 2 * (patches + 1) ** 2 * frames * width
    mlp = 2 * width * model.intermediate * (tokens + 1)
    return model.vision_layers * (temporal + spatial + mlp) + tokens * 3 * model.patch_size**2 * width


def bert_macs(model: Model, layers: int, tokens: int) -> float:
    """Some BERT layers over so many tokens."""
    dense = (4 * model.width**2 + 2 * model.width * model.intermediate) * tokens
    return layers * (dense + 2 * tokens**2 * model.width)


def training_flops(task: str, model: Model, frames: int, text_tokens: int) -> float:
    """Floating-point operations of one clip in one training step."""
    patches = (model.image_size // model.patch_size) ** 2
    video, text = video_macs(model, frames), bert_macs(model, model.text_layers, text_tokens)
    fusion = bert_macs(model, model.fusion_layers, text_tokens + 1 + patches)
    videos, texts, fusions, frozen = PASSES[task]
    return 2 * (3 * (videos * video + texts * text + fusions * fusion) + frozen * video)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """What the device could do in half precision; None where it is unknown, or the training runs in fp32."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for word, peak in PEAKS.items() if word in name), None)
