"""TimeSformer, the video encoder: a ViT whose blocks attend over time, then over space (paper section 3.1; arXiv 2102.05095).

Letters: B batch, T frames, N patches of a frame, D width. Tokens are [CLS], then the patches in the order (h w t): time varies
fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import Attention, DropPath, Mlp, PatchEmbed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alpro.config import Model
from alpro.errors import ConfigError

Checkpointing = Literal["none", "exact", "official"]
KINETICS_CLASSES = 400  # classes of the unused head in every official checkpoint
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class SelfAttention(Attention):
    """timm's attention, extended to compute only the [CLS] query, or to skip the output projection.

    On a CPU under autocast it uses explicit products: torch's fused kernel is slow there in half precision.
    """

    def forward(self, x: Tensor, cls_only: bool = False) -> Tensor:  # type: ignore[override]
        """Attend: (B, tokens, D) -> (B, tokens, D), or, with `cls_only`, only the first token's output, (B, 1, D)."""
        return self.proj(self.mix(x, cls_only))

    def mix(self, x: Tensor, cls_only: bool = False) -> Tensor:
        """Attend without the output projection."""
        if cls_only:
            sizes = [self.attn_dim, 2 * self.attn_dim]
            (q_weight, weight), (q_bias, bias) = self.qkv.weight.split(sizes), self.qkv.bias.split(sizes)
            q = self._heads(F.linear(x[:, :1], q_weight, q_bias))[0]
            k, v = self._heads(F.linear(x, weight, bias))
        else:
            q, k, v = self._heads(self.qkv(x))
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            mixed = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).flatten(2)

    def _heads(self, x: Tensor) -> Tensor:
        """Reshape (B, tokens, n D) to (n, B, heads, tokens, head width)."""
        return x.unflatten(2, (-1, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)


class Patches(PatchEmbed):
    """timm's patch embedding. Its windows do not overlap, so on a GPU the convolution is computed as one matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        """Embed frames: (F, 3, H, W) -> (F, N, D)."""
        return self.multiply(x) if x.is_cuda else super().forward(x)

    def multiply(self, x: Tensor) -> Tensor:
        """Embed frames by one matrix product with the weights of the convolution. H and W are multiples of the patch size."""
        height, width = self.patch_size
        x = x.unflatten(2, (-1, height)).unflatten(4, (-1, width)).permute(0, 2, 4, 1, 3, 5)  # (F, rows, columns, 3, P, P)
        return F.linear(x.flatten(3).flatten(1, 2), self.proj.weight.flatten(1), self.proj.bias)


class Block(nn.Module):
    """Divided space-time attention: (B, 1+N*T, D) -> (B, 1+N*T, D), or (B, 1, D) with `cls_only`.

    `keep` is the probability that a path is kept, as a tensor (): see `drop_paths`.
    """

    def __init__(self, width: int, heads: int, intermediate: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = SelfAttention(width, heads, qkv_bias=True)
        self.temporal_norm1 = LayerNorm(width)
        self.temporal_attn = SelfAttention(width, heads, qkv_bias=True)
        self.temporal_fc = nn.Linear(width, width)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, intermediate)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, frames: int, cls_only: bool = False, keep: Tensor | None = None) -> Tensor:
        drop_path = self.drop_path if keep is None else partial(drop_paths, keep=keep)
        batch, tokens, width = x.shape
        patches = (tokens - 1) // frames
        cls, x = x.split([1, tokens - 1], 1)  # the gradients of two slices would be padded and added

        # Time: each patch attends over its own T frames. Drop path scales whole patches, so the projection and temporal_fc can
        # be one product (cheaper for B*N*T rows), with only temporal_fc's bias added after it.
        projection, fc = self.temporal_attn.proj, self.temporal_fc
        temporal = self.temporal_attn.mix(self.temporal_norm1(x.reshape(batch * patches, frames, width)))
        temporal = F.linear(temporal, fc.weight @ projection.weight, F.linear(projection.bias, fc.weight))
        x = x + drop_path(temporal).reshape(batch, patches * frames, width) + fc.bias

        # Space: each frame attends over its own patches and a copy of CLS; CLS becomes the mean. Drop path acts per frame.
        images = x.reshape(batch, patches, frames, width).transpose(1, 2)  # (B, T, N, D)
        images = torch.cat([cls[:, None].expand(-1, frames, -1, -1), images], 2).reshape(batch * frames, 1 + patches, width)
        images = drop_path(self.attn(self.norm1(images), cls_only)).unflatten(0, (batch, frames))
        cls_of_frames, images = images.split([1, images.shape[2] - 1], 2)
        cls = cls + cls_of_frames.mean(1)
        if cls_only:
            return cls + drop_path(self.mlp(self.norm2(cls)))
        x = x + images.transpose(1, 2).reshape(batch, patches * frames, width)

        x = torch.cat([cls, x], 1)
        return x + drop_path(self.mlp(self.norm2(x)))


def run_block(block: Block, x: Tensor, frames: int, cls_only: bool, keep: Tensor | None = None) -> Tensor:
    """Run a block. This is the region that torch.compile compiles, once for all blocks."""
    return block(x, frames, cls_only, keep)


def drop_paths(x: Tensor, keep: Tensor) -> Tensor:
    """Drop rows of x (rows, ...), as timm's DropPath does. The probability `keep` () is a tensor, not a constant of the code.

    Blocks with different probabilities can then share compiled code. The random numbers are not those of DropPath.
    """
    kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) < keep
    return x * (kept / keep).to(x.dtype)


@cache
def _probabilities(rates: tuple[float, ...], device: torch.device) -> list[Tensor]:
    """Return the probability of keeping a path for each rate, as tensors that are copied to the device once."""
    return [torch.tensor(1 - rate, device=device) for rate in rates]


class VisionTransformer(nn.Module):
    """The encoder without pooling; embeddings are interpolated to the input's size if it differs (nearest, 2-D in space)."""

    def __init__(self, config: Model, num_frames: int, gradient_checkpointing: Checkpointing = "none") -> None:
        super().__init__()
        self.checkpointing = gradient_checkpointing != "none"
        self.compiled: Callable[..., Tensor] | None = None  # `run_block` after torch.compile; see alpro.models.compiled
        side = config.image_size // config.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, config.width))
        self.time_embed = nn.Parameter(torch.zeros(1, num_frames, config.width))
        self.patch_embed = Patches(config.image_size, config.patch_size, embed_dim=config.width, strict_img_size=False)
        self.rates = tuple(torch.linspace(0, config.drop_path, config.vision_layers, device="cpu").tolist())
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.intermediate, rate) for rate in self.rates)
        self.norm = LayerNorm(config.width)
        self.head = nn.Linear(config.width, KINETICS_CLASSES)
        if gradient_checkpointing == "official":
            # The released checkpointing computes gradients of a layer's input only: attention and MLP are never trained.
            for block in self.blocks:
                for layer in (block.attn, block.temporal_attn, block.mlp):
                    layer.requires_grad_(False)

    def forward(self, pixels: Tensor, cls_only: bool = False) -> Tensor:
        """Encode normalised pixels (B, T, 3, H, W): (B, 1+N*T, D), or only CLS, (B, 1, D)."""
        batch, frames, _, height, width = pixels.shape
        x = self.patch_embed(pixels.flatten(0, 1))  # (B*T, N, D)
        cls_position, positions = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = (height // self.patch_embed.patch_size[0], width // self.patch_embed.patch_size[1])
        if grid != self.patch_embed.grid_size:
            positions = resize_grid(positions, self.patch_embed.grid_size, grid, "nearest")
        times: Tensor = self.time_embed
        if frames != times.shape[1]:
            times = resize_time(times, frames)

        x = (x + positions).unflatten(0, (batch, frames)).transpose(1, 2)  # (B, N, T, D)
        x = (x + times[:, None]).flatten(1, 2)
        x = torch.cat([(self.cls_token + cls_position).expand(batch, -1, -1), x], 1)
        run, keep = self._region(x.device)
        for number, block in enumerate(self.blocks):
            last = cls_only and number == len(self.blocks) - 1
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(run, block, x, frames, last, keep[number], use_reentrant=False)
            else:
                x = run(block, x, frames, last, keep[number])
        return self.norm(x)

    def _region(self, device: torch.device) -> tuple[Callable[..., Tensor], Sequence[Tensor | None]]:
        """Return the function that runs a block, and each block's `keep`. Only training is compiled: its shapes are fixed."""
        none: list[Tensor | None] = [None] * len(self.blocks)
        if self.compiled is None or not (self.training and torch.is_grad_enabled()):
            return run_block, none
        return self.compiled, _probabilities(self.rates, device) if any(self.rates) else none


class TimeSformer(nn.Module):
    """The video encoder; its patch tokens are averaged over time."""

    def __init__(self, config: Model, num_frames: int, gradient_checkpointing: Checkpointing = "none") -> None:
        super().__init__()
        self.num_frames = num_frames
        self.image_size = config.image_size
        self.model = VisionTransformer(config, num_frames, gradient_checkpointing)

    def forward(self, pixels: Tensor, cls_only: bool = False) -> Tensor:
        """Encode normalised pixels (B, T, 3, H, W): (B, 1+N, D), or only CLS, (B, 1, D).

        Raises ConfigError if T, H or W differ from the model's.
        """
        expected = (self.num_frames, 3, self.image_size, self.image_size)
        if pixels.dim() != 5 or tuple(pixels.shape[1:]) != expected:
            raise ConfigError(
                f"video encoder: pixels have the shape {tuple(pixels.shape)}, the model is built for "
                f"(B, {', '.join(map(str, expected))}); change the number or the size of the frames, or resize the checkpoint"
            )
        x = self.model(pixels, cls_only)
        if cls_only:
            return x
        cls, patches = x.split([1, x.shape[1] - 1], 1)
        return torch.cat([cls, patches.unflatten(1, (-1, self.num_frames)).mean(2)], 1)


def resize_time(times: Tensor, frames: int) -> Tensor:
    """Resize time embeddings to the nearest rows: (1, T, D) -> (1, frames, D)."""
    return F.interpolate(times.transpose(1, 2), size=frames, mode="nearest").transpose(1, 2)


def resize_grid(positions: Tensor, old: tuple[int, int], new: tuple[int, int], mode: Literal["nearest", "bicubic"]) -> Tensor:
    """Resize patch embeddings in two dimensions: (1, old h*w, D) -> (1, new h*w, D)."""
    image = positions.unflatten(1, old).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=new, mode=mode, antialias=mode == "bicubic")
    return image.flatten(2).transpose(1, 2)
