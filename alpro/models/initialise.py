"""Initialisation of a model from a seed: every tensor is drawn in a fixed order."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from alpro.models.bert import MaskedLM
from alpro.models.encoders import Alpro

STD = 0.02  # BERT's and ViT's standard deviation, at width STD_WIDTH
STD_WIDTH = 768
POSITION_STD = 3**-0.5  # that of the patch embeddings, to which position and time embeddings are added


def initialise(model: Alpro, seed: int) -> None:
    """Fill every parameter and buffer of a model in place; the same seed gives the same bits.

    As in the original papers: BERT normal, ViT truncated normal, biases zero; heads uniform like torch's linear layers. The
    deviation is 0.02 at width 768, scaled so that a layer's output is as large at other widths. Temporal attention starts
    like the other layers; only a model that starts from a ViT needs it to start at zero (`start.load_vision`). Position and
    time embeddings start as large as the patch embeddings: with 0.02, learning where and when something is would take most
    of a short training.
    """
    generator = torch.Generator().manual_seed(seed)
    std = STD * math.sqrt(STD_WIDTH / model.config.width)
    filled: set[int] = set()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, MaskedLM):
                module.tie()
        for name, module in model.named_modules():
            tensors = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
            for key, tensor in tensors.items():
                if id(tensor) not in filled:
                    filled.add(id(tensor))
                    _fill(f"{name}.{key}".lstrip("."), key, module, tensor, std, generator)


def _fill(name: str, key: str, module: nn.Module, tensor: Tensor, std: float, generator: torch.Generator) -> None:
    vision, text = "visual_encoder." in name, "text_encoder." in name
    if key == "position_ids":
        tensor.copy_(torch.arange(tensor.shape[1]))
    elif isinstance(module, nn.LayerNorm):
        tensor.fill_(1 if key == "weight" else 0)
    elif isinstance(module, nn.Conv2d):
        _uniform(tensor, module.weight[0].numel(), generator)
    elif key.endswith("bias") and (vision or text):
        tensor.zero_()
    elif isinstance(module, Alpro) and key == "temp":
        tensor.fill_(module.config.temperature)
    elif key in ("video_prompt_feat", "image_prompt_feat"):
        tensor.zero_()
    elif vision and key in ("pos_embed", "time_embed"):
        tensor.normal_(0, POSITION_STD, generator=generator)
    elif vision:
        nn.init.trunc_normal_(tensor, std=std, a=-2 * std, b=2 * std, generator=generator)
    elif text:
        tensor.normal_(0, std, generator=generator)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            tensor[module.padding_idx].zero_()
    elif isinstance(module, nn.Linear):
        _uniform(tensor, module.in_features, generator)
    else:
        raise AssertionError(f"{name}: no rule to initialise this parameter; add one here")


def _uniform(tensor: Tensor, fan_in: int, generator: torch.Generator) -> None:
    bound = 1 / math.sqrt(fan_in)
    tensor.uniform_(-bound, bound, generator=generator)
