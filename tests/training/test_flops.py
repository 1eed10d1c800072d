"""Nominal arithmetic agrees with what was counted on the real model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alpro.config import Model
from alpro.data.batch import Batch
from alpro.models import build_model
from alpro.training.flops import PASSES, bert_macs, training_flops, validation_flops, video_macs
from alpro.training.memory import FULL_FUSIONS


def test_the_papers_model_costs_what_was_counted() -> None:
    model = Model()
    assert video_macs(model, 8) / 1e9 == pytest.approx(195.8, abs=0.1)
    assert video_macs(model, 4) / 1e9 == pytest.approx(97.9, abs=0.1)
    assert video_macs(model, 16) / 1e9 == pytest.approx(392.1, abs=0.3)
    assert bert_macs(model, 6, 40) / 1e9 == pytest.approx(1.7, abs=0.05)
    assert bert_macs(model, 6, 40 + 197) / 1e9 == pytest.approx(10.6, abs=0.05)


def test_a_training_clip_is_forward_and_backward_of_all_its_passes() -> None:
    model = Model()
    video, text, fusion = video_macs(model, 8), bert_macs(model, 6, 40), bert_macs(model, 6, 237)
    assert training_flops("retrieval", model, 8, 40) == pytest.approx(6 * (video + text + 3 * fusion))
    assert training_flops("qa", model, 8, 40) == pytest.approx(6 * (video + text + fusion))


SMALL = Model(
    image_size=64, patch_size=16, width=96, heads=3, intermediate=384, vision_layers=2, text_layers=2, fusion_layers=4,
    embed_dim=16, vocab_size=50, max_positions=32, dropout=0.0, drop_path=0.0,
)  # fmt: skip


def counted(run: Callable[[], object]) -> float:
    """Floating-point operations that torch counts, with attention spelled out so that its products are seen."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


def test_the_encoders_cost_what_torch_counts() -> None:
    model = build_model("retrieval", num_frames=4, config=SMALL).eval()
    pixels, ids = torch.zeros(1, 4, 3, 64, 64), torch.ones(1, 12, dtype=torch.long)
    with torch.no_grad():
        assert counted(lambda: model.encode_video(pixels)) == pytest.approx(2 * video_macs(SMALL, 4), rel=0.01)
        assert counted(lambda: model.encode_text(ids, ids)) == pytest.approx(2 * bert_macs(SMALL, 2, 12), rel=0.01)
        text, video = torch.zeros(1, 12, 96), torch.zeros(1, 17, 96)
        assert counted(lambda: model.fuse(text, ids, video)) == pytest.approx(2 * bert_macs(SMALL, 4, 29), rel=0.01)


@pytest.mark.parametrize("task", PASSES)
def test_a_training_step_costs_what_torch_counts(task: str) -> None:
    """But for the multimodal encoder's last layer, where often [CLS] alone is computed, and pixels, which get no gradient."""
    torch.manual_seed(0)
    heads = {"prompter": {"num_entities": 0}, "pretrain": {"num_entities": 5}, "qa": {"num_answers": 5}, "retrieval": {}}
    model = build_model(task, num_frames=4, config=SMALL, **heads[task]).train()
    if task == "pretrain":
        model.prompter.video_prompt_feat.normal_()
    ids = torch.randint(5, 50, (4, 12))
    labels = torch.full_like(ids, -100)
    labels[:, 1] = ids[:, 1]
    batch = Batch(
        "made", list("abcd"), torch.randint(0, 256, (4, 4, 3, 64, 64), dtype=torch.uint8), ids, torch.ones_like(ids),
        mlm_input_ids=ids, mlm_labels=labels, crop_boxes=torch.tensor([[0, 0, 32, 32]] * 4), labels=torch.zeros(4).long(),
    )  # fmt: skip
    nominal = 4 * training_flops(task, SMALL, 4, 12)
    fusions_cls = PASSES[task][2] - FULL_FUSIONS.get(task, 0)
    spared = 4 * 6 * fusions_cls * bert_macs(SMALL, 1, 29) * 0.8  # about: keys and values are still made for all tokens
    spared += 4 * 2 * 64 * 3 * 16**2 * 96  # 64 patches of 4 frames
    assert counted(lambda: model(batch).total.backward()) == pytest.approx(nominal - spared, rel=0.02)


def test_a_validation_encodes_each_once_and_fuses_every_pair() -> None:
    model = Model()
    video, text, fusion = video_macs(model, 8), bert_macs(model, 6, 40), bert_macs(model, 6, 237)
    ranking = validation_flops("retrieval", model, 8, 40, clips=10, texts=20)
    assert ranking == pytest.approx(2 * (10 * video + 20 * text + 200 * fusion))
    assert validation_flops("qa", model, 8, 40, clips=10, texts=20) == pytest.approx(2 * (10 * video + 20 * (text + fusion)))
    assert validation_flops("prompter", model, 8, 40, clips=10, texts=10) == pytest.approx(20 * (video + text))
