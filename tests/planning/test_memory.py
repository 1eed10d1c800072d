"""Planned activations equal what autograd stores, for every training, with and without gradient checkpointing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alpro.config import Model
from alpro.data.batches.batch import Batch
from alpro.models import build_model
from alpro.planning.memory import activations, estimate_memory
from alpro.training.flops import PASSES

SIZES = Model(
    image_size=64, patch_size=16, width=64, heads=2, intermediate=256, vision_layers=3, text_layers=2, fusion_layers=3,
    embed_dim=16, vocab_size=50, max_positions=32, dropout=0.0,
)  # fmt: skip
FRAMES, TOKENS, BATCH = 4, 12, 4
HEADS = {"prompter": {"num_entities": 0}, "pretrain": {"num_entities": 5}, "qa": {"num_answers": 5}, "retrieval": {}}


def batch(clips: int = BATCH, tokens: int = TOKENS) -> Batch:
    """Return clips with all fields that any training needs."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, SIZES.vocab_size, (clips, tokens), generator=generator)
    labels = torch.full_like(ids, -100)
    labels[:, 1] = ids[:, 1]
    return Batch(
        "made", [str(n) for n in range(clips)], torch.randint(0, 256, (clips, FRAMES, 3, 64, 64), dtype=torch.uint8), ids,
        torch.ones_like(ids), mlm_input_ids=ids, mlm_labels=labels,
        crop_boxes=torch.tensor([[0, 0, 32, 32]] * clips), labels=torch.zeros(clips, dtype=torch.long),
    )  # fmt: skip


def built(task: str, checkpointing: str = "none") -> Any:
    model = build_model(task, num_frames=FRAMES, config=SIZES, gradient_checkpointing=checkpointing, **HEADS[task]).train()
    if task == "pretrain":
        model.prompter.video_prompt_feat.normal_()
    return model


def kept_bytes(model: nn.Module, given: Batch) -> int:
    """Return the bytes of all tensors, except the model's own, that a forward pass stores for backward."""
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = (
                tensor.untyped_storage()
            )  # kept alive, so that its address is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(given, torch.Generator().manual_seed(0))
    assert output.total.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("task", PASSES)
@pytest.mark.parametrize("checkpointing", ["none", "exact"])
def test_planned_activations_equal_what_autograd_stores(task: str, checkpointing: str) -> None:
    stored, _ = activations(task, SIZES, FRAMES, TOKENS, checkpointing)
    assert stored.bytes("fp32") * BATCH == pytest.approx(kept_bytes(built(task, checkpointing), batch()), rel=0.08)


@pytest.mark.parametrize("task", ["qa", "retrieval"])
@pytest.mark.parametrize("checkpointing", ["none", "exact"])
def test_planned_activations_of_a_shared_clip_equal_what_autograd_stores(task: str, checkpointing: str) -> None:
    texts = batch(8)
    shared = replace(texts, pixels=texts.pixels[:2], clips=torch.arange(8) // 4)
    stored, _ = activations(task, SIZES, FRAMES, TOKENS, checkpointing, texts_per_clip=4)
    assert stored.bytes("fp32") * 8 == pytest.approx(kept_bytes(built(task, checkpointing), shared), rel=0.08)


def test_recomputed_block_stores_as_much_as_a_normal_block() -> None:
    deep, (whole, working) = SIZES.model_copy(update={"vision_layers": 4}), activations("qa", SIZES, FRAMES, TOKENS, "exact")
    one_more = activations("qa", deep, FRAMES, TOKENS)[0].bytes("fp32") - activations("qa", SIZES, FRAMES, TOKENS)[0].bytes(
        "fp32"
    )
    assert working.bytes("fp32") == one_more
    assert whole.bytes("fp32") < activations("qa", SIZES, FRAMES, TOKENS)[0].bytes("fp32")


def test_memory_is_per_process_and_16_bits_save_less_than_half() -> None:
    sizes: dict[str, Any] = {"trained": 100, "frozen": 10, "frames": FRAMES, "text_tokens": TOKENS, "checkpointing": "none"}
    one, two = (estimate_memory("pretrain", SIZES, batch=n, precision="fp32", **sizes) for n in (1, 2))
    assert (one.weights, one.frozen, one.gradients, one.moments) == (400, 40, 400, 800)
    assert two.activations == 2 * one.activations and two.peak - one.peak == one.activations
    half = estimate_memory("pretrain", SIZES, batch=2, precision="bf16", **sizes)
    assert 0.5 * two.activations < half.activations < 0.75 * two.activations and half.casts == 220
