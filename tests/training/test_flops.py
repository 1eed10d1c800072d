"""Nominal FLOPs agree with those counted on the real model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alpro.config import Model
from alpro.data.batches.batch import Batch
from alpro.models import build_model
from alpro.planning.memory import LAST_LAYERS
from alpro.training.flops import PASSES, bert_macs, recomputed_flops, training_flops, validation_flops, video_macs


def test_paper_model_has_the_counted_flops() -> None:
    model = Model()
    assert video_macs(model, 8) / 1e9 == pytest.approx(195.8, abs=0.1)
    assert video_macs(model, 4) / 1e9 == pytest.approx(97.9, abs=0.1)
    assert video_macs(model, 16) / 1e9 == pytest.approx(392.1, abs=0.3)
    assert bert_macs(model, 6, 40) / 1e9 == pytest.approx(1.7, abs=0.05)
    assert bert_macs(model, 6, 40 + 197) / 1e9 == pytest.approx(10.6, abs=0.05)


def test_training_clip_counts_forward_and_backward_of_all_passes() -> None:
    model = Model()
    video, text, fusion = video_macs(model, 8), bert_macs(model, 6, 40), bert_macs(model, 6, 237)
    assert training_flops("retrieval", model, 8, 40) == pytest.approx(6 * (video + text + 3 * fusion))
    assert training_flops("qa", model, 8, 40) == pytest.approx(6 * (video + text + fusion))


SMALL = Model(
    image_size=64, patch_size=16, width=96, heads=3, intermediate=384, vision_layers=2, text_layers=2, fusion_layers=4,
    embed_dim=16, vocab_size=50, max_positions=32, dropout=0.0, drop_path=0.0,
)  # fmt: skip


def counted(run: Callable[[], object]) -> float:
    """Return the FLOPs that torch counts, with unfused attention so that its products are counted."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


# Multiply-accumulates that the nominal FLOPs contain and the small model saves. Sizes: D 96, N 16, T 4, S = N*T.
WIDTH, HIDDEN, SPACE, FUSED = 96, 384, 64, 29


def spared_by_one_product(clips: int) -> int:
    """Return the saving of a block that merges temporal_fc and the projection before it; negative in a model this small."""
    return clips * SPACE * WIDTH**2 - WIDTH**3


def spared_by_cls_alone() -> int:
    """Return the saving of a clip's last block: queries, their projection, the attention and the MLP of the patches."""
    return 2 * SPACE * WIDTH**2 + 2 * SPACE * 17 * WIDTH + 2 * SPACE * WIDTH * HIDDEN


def spared_by_asking_for(tokens: int) -> int:
    """Return the saving of the last multimodal layer: only keys and values are computed for all tokens."""
    return (FUSED - tokens) * (2 * WIDTH**2 + 2 * FUSED * WIDTH + 2 * WIDTH * HIDDEN)


def test_encoder_flops_equal_torchs_count() -> None:
    model = build_model("retrieval", num_frames=4, config=SMALL).eval()
    pixels, ids = torch.zeros(1, 4, 3, 64, 64), torch.ones(1, 12, dtype=torch.long)
    with torch.no_grad():
        nominal = video_macs(SMALL, 4) - 2 * spared_by_one_product(1)
        assert counted(lambda: model.encode_video(pixels)) == pytest.approx(2 * nominal, rel=0.01)
        assert counted(lambda: model.encode_video(pixels, True)) == pytest.approx(
            2 * (nominal - spared_by_cls_alone()), rel=0.01
        )
        assert counted(lambda: model.encode_text(ids, ids)) == pytest.approx(2 * bert_macs(SMALL, 2, 12), rel=0.01)
        text, video = torch.zeros(1, 12, 96), torch.zeros(1, 17, 96)
        assert counted(lambda: model.fuse(text, ids, video)) == pytest.approx(2 * bert_macs(SMALL, 4, 29), rel=0.01)


@pytest.mark.parametrize("task", PASSES)
def test_training_step_flops_equal_torchs_count(task: str) -> None:
    """Allow for the savings above, and for pixels, which get no gradient."""
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
    videos, _, fusions, frozen = PASSES[task]
    full, of_text = LAST_LAYERS.get(task, (0, 0))
    passes = 3 * videos + frozen
    spared = 2 * passes * spared_by_one_product(4)  # two blocks
    spared += 4 * (frozen if fusions else 3) * spared_by_cls_alone()
    spared += 4 * 3 * ((fusions - full - of_text) * spared_by_asking_for(1) + of_text * spared_by_asking_for(12))
    spared += 4 * SPACE * 3 * 16**2 * WIDTH
    assert counted(lambda: model(batch).total.backward()) == pytest.approx(nominal - 2 * spared, rel=0.01)


@pytest.mark.parametrize("task", ["qa", "retrieval"])
def test_flops_of_a_shared_clip_are_divided_by_its_texts(task: str) -> None:
    model = Model()
    video, text, fusion = video_macs(model, 16), bert_macs(model, 6, 40), bert_macs(model, 6, 237)
    fusions = PASSES[task][2]
    assert training_flops(task, model, 16, 40, 4) == pytest.approx(6 * (video / 4 + text + fusions * fusion))
    assert recomputed_flops(task, model, 16, 4) == recomputed_flops(task, model, 16) / 4


def test_validation_flops_count_each_encoding_once_and_every_pair() -> None:
    model = Model()
    video, text, fusion = video_macs(model, 8), bert_macs(model, 6, 40), bert_macs(model, 6, 237)
    ranking = validation_flops("retrieval", model, 8, 40, clips=10, texts=20)
    assert ranking == pytest.approx(2 * (10 * video + 20 * text + 200 * fusion))
    assert validation_flops("qa", model, 8, 40, clips=10, texts=20) == pytest.approx(2 * (10 * video + 20 * (text + fusion)))
    assert validation_flops("prompter", model, 8, 40, clips=10, texts=10) == pytest.approx(20 * (video + text))
