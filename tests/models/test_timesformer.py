"""The video encoder: divided attention at any size, and both kinds of gradient checkpointing."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Attention
from torch import nn

from alpro.checks.gpu.costs import step_costs
from alpro.errors import ConfigError
from alpro.models.timesformer import Block, Patches, SelfAttention, TimeSformer, resize_grid
from tests import parity


def naive_block(block: Block, x: torch.Tensor, frames: int) -> torch.Tensor:
    """Compute the block for one patch and one frame at a time."""
    cls, x = x[:, :1], x[:, 1:].clone()
    for n in range(x.shape[1] // frames):
        place = slice(n * frames, (n + 1) * frames)
        x[:, place] = x[:, place] + block.temporal_fc(block.temporal_attn(block.temporal_norm1(x[:, place])))
    seen, out = [], x.clone()
    for t in range(frames):
        attended = block.attn(block.norm1(torch.cat([cls, x[:, t::frames]], 1)))
        seen.append(attended[:, :1])
        out[:, t::frames] = x[:, t::frames] + attended[:, 1:]
    x = torch.cat([cls + torch.stack(seen).mean(0), out], 1)
    return x + block.mlp(block.norm2(x))


def test_block_attends_over_time_then_over_space():
    torch.manual_seed(0)
    block = Block(24, 3, 48, 0.0).eval()
    x = torch.randn(2, 1 + 5 * 3, 24)
    torch.testing.assert_close(block(x, 3), naive_block(block, x, 3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls_only", [False, True])
def test_attention_without_the_fused_kernel_is_equal_up_to_half_precision(cls_only, monkeypatch):
    torch.manual_seed(0)
    attention, x = SelfAttention(32, 2, qkv_bias=True), torch.randn(3, 7, 32)
    exact = attention(x, cls_only)
    torch.testing.assert_close(exact, Attention.forward(attention, x)[:, : exact.shape[1]])  # timm's implementation
    assert exact.shape[1] == (1 if cls_only else 7)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", None)  # must not be called
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention(x, cls_only)
    torch.testing.assert_close(rounded.float(), exact, atol=2e-2, rtol=2e-2)


def test_merged_temporal_projection_matches_two_layers():
    """Include drop path between the two layers, which drops whole patches."""
    frames, places = 3, 40
    torch.manual_seed(0)
    block = Block(24, 3, 48, 0.5).double().train()
    x = torch.randn(1, 1 + places * frames, 24, dtype=torch.float64)
    for layer in (block.attn.proj, block.mlp.fc2):  # later layers add nothing
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    seen = []
    for two in (False, True):
        block.zero_grad()
        torch.manual_seed(1)
        if two:
            own = x[:, 1:].reshape(places, frames, 24)
            moved = x[:, 1:] + block.temporal_fc(block.drop_path(block.temporal_attn(block.temporal_norm1(own)))).flatten(0, 1)
        else:
            moved = block(x, frames)[:, 1:]
        moved.square().sum().backward()
        seen.append((moved, {name: p.grad.clone() for name, p in block.named_parameters() if "temporal" in name}))
    (one, gradients), (both, expected) = seen
    torch.testing.assert_close(one, both, rtol=1e-12, atol=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("checkpointing", ["none", "exact"])
def test_cls_only_output_has_the_same_values_and_gradients(small, checkpointing):
    pixels = torch.randn(3, 3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = []
    for cls_only in (False, True):
        config = small("prompter").config.model_copy(update={"drop_path": 0.5})
        model = small("prompter", config=config, gradient_checkpointing=checkpointing).double().train()
        torch.manual_seed(0)  # the same paths are dropped
        cls = model.encode_video(pixels, cls_only)[:, :1]
        cls.square().sum().backward()
        seen.append((cls.detach(), {name: p.grad for name, p in model.visual_encoder.named_parameters() if p.grad is not None}))
    (whole, expected), (alone, gradients) = seen
    torch.testing.assert_close(alone, whole, rtol=1e-10, atol=1e-10)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("image_size", "patch_size", "frames"), [(32, 8, 1), (48, 16, 2), (40, 8, 5)])
def test_any_size_gives_cls_and_one_token_per_patch(small, image_size, patch_size, frames):
    config = small("retrieval").config.model_copy(update={"image_size": image_size, "patch_size": patch_size})
    model = small("retrieval", config=config, num_frames=frames)
    tokens = model.encode_video(torch.randint(0, 256, (2, frames, 3, image_size, image_size), dtype=torch.uint8))
    assert tokens.shape == (2, 1 + (image_size // patch_size) ** 2, 48)


@pytest.mark.parametrize("shape", [(2, 4, 3, 32, 32), (2, 3, 3, 40, 32), (2, 3, 1, 32, 32), (3, 3, 32, 32)])
def test_clips_of_another_shape_are_refused(small, shape):
    with pytest.raises(ConfigError, match=r"built for \(B, 3, 3, 32, 32\)"):
        small("retrieval").encode_video(torch.zeros(shape))


def loss_and_gradients(model, batch) -> tuple[float, dict[str, torch.Tensor | None]]:
    torch.manual_seed(5)  # dropout and dropped paths
    total = model(batch).total
    total.backward()
    return total.item(), {key: parameter.grad for key, parameter in model.named_parameters()}


def test_exact_checkpointing_changes_no_gradient(small, batch):
    (loss, grads), (loss_checkpointed, grads_checkpointed) = (
        loss_and_gradients(small("qa", gradient_checkpointing=mode).train(), batch()) for mode in ("none", "exact")
    )
    assert loss == loss_checkpointed
    for key, gradient in grads.items():
        other = grads_checkpointed[key]
        assert (gradient is None) == (other is None), key
        assert gradient is None or torch.allclose(gradient, other, rtol=1e-6, atol=1e-9), key


def test_official_checkpointing_leaves_attention_and_mlp_untrained(small, batch):
    (_, grads), (_, official) = (
        loss_and_gradients(small("qa", gradient_checkpointing=mode).train(), batch()) for mode in ("none", "official")
    )
    lost = {key for key in grads if (grads[key] is None) != (official[key] is None)}
    assert lost == {k for k in grads if "visual" in k and any(part in k for part in (".attn.", ".temporal_attn.", ".mlp."))}
    assert all(torch.allclose(grads[key], g, rtol=1e-6, atol=1e-9) for key, g in official.items() if g is not None)


def test_drop_path_applies_only_in_training_and_grows_with_depth(small, batch):
    config = small("retrieval").config.model_copy(update={"drop_path": 0.5, "dropout": 0.0})
    model = small("retrieval", config=config)
    rates = [block.drop_path.drop_prob for block in model.visual_encoder.model.blocks]
    assert rates == [0.0, 0.5]
    pixels = batch().pixels
    model.train()
    assert not model.encode_video(pixels).equal(model.encode_video(pixels))
    model.eval()
    assert model.encode_video(pixels).equal(model.encode_video(pixels))


def test_bicubic_resizing_respects_both_dimensions():
    ramp = torch.arange(4.0)[:, None].expand(4, 4).reshape(1, 16, 1)  # rows 0, 1, 2, 3
    resized = resize_grid(ramp, (4, 4), (8, 8), "bicubic").reshape(8, 8)
    assert torch.allclose(resized, resized[:, :1].expand(-1, 8), atol=1e-6)
    assert (resized[1:, 0] > resized[:-1, 0]).all()


def test_meta_device_gives_sizes_without_using_memory(small):
    model = small("retrieval", seed=None)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert isinstance(model.visual_encoder, TimeSformer)


# --- patch embedding as one matrix product, as on a GPU -----------------------------------------------------

WITH_GRADIENTS = ("d_retrieval_train", "e_qa_T4", "f_pretrain_video_grads")  # goldens


@pytest.mark.parametrize(("size", "patch"), [(32, 8), (48, 16), (20, 4)])
def test_matrix_product_gives_the_convolutions_values_and_gradients(size, patch):
    torch.manual_seed(0)
    embedding = Patches(size, patch, embed_dim=24).double()
    seen = []
    for compute in (embedding.forward, embedding.multiply):
        pixels = torch.randn(3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        embedding.zero_grad()
        out = compute(pixels)
        out.sin().sum().backward()
        seen.append([out.detach(), pixels.grad, *(p.grad.clone() for p in embedding.parameters())])
    for convolved, multiplied in zip(*seen, strict=True):
        torch.testing.assert_close(multiplied, convolved, rtol=1e-12, atol=1e-12)


def test_no_convolution_is_computed_on_a_gpu(monkeypatch):
    monkeypatch.setattr(nn.Conv2d, "forward", None)  # must not be called
    assert step_costs("qa").operations > 0


@pytest.mark.parametrize("name", ["a_timesformer_T2", *(pytest.param(n, marks=pytest.mark.slow) for n in WITH_GRADIENTS)])
def test_released_numbers_come_from_the_matrix_product_too(name, monkeypatch):
    monkeypatch.setattr(Patches, "forward", Patches.multiply)
    _, differences = parity.worst(name)
    assert [d.what for d in differences if not d.error <= d.tolerance] == []
