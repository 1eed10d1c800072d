"""Small models, of the same classes as the full-size ones, and batches for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from alpro.config import Model
from alpro.data.batches.batch import Batch
from alpro.models import Alpro, build_model

SMALL = Model(
    image_size=32,
    patch_size=8,
    width=48,
    heads=4,
    intermediate=96,
    vision_layers=2,
    text_layers=2,
    fusion_layers=2,
    embed_dim=16,
    vocab_size=100,
    max_positions=32,
)
FRAMES, ANSWERS, ENTITIES = 3, 5, 6


@pytest.fixture
def small() -> Callable[..., Alpro]:
    """Return a function that builds a small model of a task; the prompter has random prompt features."""

    def build(task: str, **arguments: object) -> Alpro:
        defaults = {"num_frames": FRAMES, "config": SMALL, "num_answers": ANSWERS, "num_entities": ENTITIES}
        model = build_model(task, **(defaults | arguments))
        teacher = getattr(model, "prompter", None)
        for module in (model, teacher):
            if hasattr(module, "video_prompt_feat"):
                generator = torch.Generator().manual_seed(1)
                module.video_prompt_feat.normal_(generator=generator)
                module.image_prompt_feat.normal_(generator=generator)
        return model

    return build


@pytest.fixture
def batch() -> Callable[..., Batch]:
    """Return a function that makes a batch of random clips and texts, with all tensors that any training reads."""

    def make(size: int = 4, frames: int = FRAMES, tokens: int = 7, seed: int = 0, **replaced: object) -> Batch:
        g = torch.Generator().manual_seed(seed)
        ids = torch.randint(5, 100, (size, tokens), generator=g)
        mask = torch.ones_like(ids)
        mask[0, tokens - 3 :] = 0
        masked, labels = ids.clone(), torch.full_like(ids, -100)
        masked[:, 2], labels[:, 2] = 4, ids[:, 2]
        values = {
            "pixels": torch.randint(0, 256, (size, frames, 3, 32, 32), dtype=torch.uint8, generator=g),
            "mlm_input_ids": masked,
            "mlm_labels": labels,
            "crop_boxes": torch.tensor([[8, 0, 16, 24], [0, 8, 8, 8]]).repeat(size, 1)[:size],
            "labels": torch.arange(size) % ANSWERS,
        }
        return Batch("made", [f"made/{i}" for i in range(size)], input_ids=ids, attention_mask=mask, **(values | replaced))

    return make
