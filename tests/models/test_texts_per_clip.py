"""Several texts of a clip share its encoding: losses and gradients are those of separate encodings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from alpro.config import Model
from alpro.data.batches.batch import Batch
from alpro.models import Alpro, build_model, normalize
from alpro.objectives import vtc_loss
from tests.models.conftest import SMALL

CLIPS = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])  # clip of each of the eight texts
UNSHAKEN = SMALL.model_copy(update={"dropout": 0.0, "drop_path": 0.0})


@pytest.fixture
def pair(batch: Callable[..., Batch]) -> tuple[Batch, Batch]:
    """Return a batch of three clips with eight texts, and the same texts with a copy of its clip each."""
    whole = batch(8)
    pixels = normalize(whole.pixels[:3]).double()
    labels = torch.tensor([0, 4, -100, 1, 2, 3, 0, 1])
    shared = replace(whole, pixels=pixels, clips=CLIPS, labels=labels)
    return shared, replace(shared, pixels=pixels[CLIPS], clips=None)


def exact(task: str, config: Model = UNSHAKEN) -> Alpro:
    return build_model(task, num_frames=3, config=config, num_answers=5).double().train()


def gradients(model: Alpro, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_questions_have_the_gradients_of_separate_encodings(pair: tuple[Batch, Batch], dropout: float) -> None:
    """Also with dropout, which each question draws for itself, in the text and in the multimodal encoder."""
    model = exact("qa", UNSHAKEN.model_copy(update={"dropout": dropout}))
    outputs = []
    for given in pair:
        torch.manual_seed(3)
        outputs.append(model(given))
    shared, separate = outputs
    assert shared.counts["qa"] == separate.counts["qa"] == 7
    torch.testing.assert_close(shared.logits["qa"], separate.logits["qa"], rtol=1e-12, atol=1e-12)
    check_equal(gradients(model, shared.total), gradients(model, separate.total))


def test_gradient_of_a_clip_is_the_sum_over_batches_of_one_question(pair: tuple[Batch, Batch]) -> None:
    shared, separate = pair
    model = exact("qa")
    fields = ("pixels", "input_ids", "attention_mask", "labels")
    singles = [
        replace(separate, ids=[name], **{field: getattr(separate, field)[[i]] for field in fields})
        for i, name in enumerate(separate.ids)
        if separate.labels[i] >= 0
    ]
    alone = torch.stack([model(single).total for single in singles]).mean()
    check_equal(gradients(model, model(shared).total), gradients(model, alone))


def test_drop_path_is_drawn_once_per_clip(pair: tuple[Batch, Batch]) -> None:
    """Equal questions about a clip get equal logits in training; with separate encodings they don't."""
    shared, separate = (
        replace(b, input_ids=b.input_ids[:1].expand(8, -1), attention_mask=b.attention_mask[1:2].expand(8, -1)) for b in pair
    )
    model = exact("qa", UNSHAKEN.model_copy(update={"drop_path": 0.5}))
    torch.manual_seed(0)
    logits = model(shared).logits["qa"]
    torch.testing.assert_close(logits[4:], logits[4:5].expand(4, -1), rtol=1e-12, atol=1e-12)
    other = model(separate).logits["qa"]
    assert not torch.allclose(other[4:], other[4:5].expand(4, -1))


@pytest.mark.parametrize("task", ["qa", "retrieval"])
def test_each_clip_is_encoded_once(pair: tuple[Batch, Batch], task: str) -> None:
    model, seen = exact(task), []
    model.visual_encoder.register_forward_hook(lambda module, inputs, out: seen.append(len(out)))
    model(pair[0])
    assert seen == [3]


def masked_losses(model: Any, given: Batch, negatives: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Compute VTC and VTM from separate encodings, pair by pair, by their definitions."""
    video = model.encode_video(given.pixels)
    text = model.encode_text(given.input_ids, given.attention_mask)
    s = model.video_feature(video) @ model.text_feature(text).T / model.temp
    terms = []
    for i in range(8):
        others = [j for j in range(8) if j == i or CLIPS[j] != CLIPS[i]]  # itself and the pairs of other clips
        place = others.index(i)
        terms += [-s[i, others].log_softmax(0)[place], -s[others, i].log_softmax(0)[place]]
    pairs = [(i, i, 1) for i in range(8)] + [(i, j, 0) for i, j in enumerate(negatives[0].tolist())]
    pairs += [(j, i, 0) for i, j in enumerate(negatives[1].tolist())]
    terms_vtm = []
    for t, c, label in pairs:
        logits = model.match(text[[t]], given.attention_mask[[t]], video[[c]])
        terms_vtm.append(-logits.log_softmax(1)[0, label])
    return torch.stack(terms).mean(), torch.stack(terms_vtm).mean()


def test_captions_have_the_losses_and_gradients_of_separate_encodings(pair: tuple[Batch, Batch]) -> None:
    shared, separate = pair
    model = exact("retrieval")
    negatives = (torch.tensor([3, 4, 5, 0, 1, 2, 3, 0]), torch.tensor([4, 3, 7, 7, 3, 3, 0, 1]))
    output = model(shared, negatives=negatives)
    vtc, vtm = masked_losses(model, separate, negatives)
    torch.testing.assert_close(output.losses["vtc"], vtc, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output.losses["vtm"], vtm, rtol=1e-12, atol=1e-12)
    assert output.counts == {"vtc": 8, "vtm": 24}
    check_equal(gradients(model, output.total), gradients(model, vtc + vtm))


def test_other_captions_of_a_clip_are_no_negatives_in_vtc() -> None:
    g = torch.Generator().manual_seed(0)
    v, t = (torch.nn.functional.normalize(torch.randn(8, 6, generator=g), dim=1) for _ in range(2))
    loss, v2t, t2v = vtc_loss(v, t, v, t, 0, 0.07, CLIPS)
    same = (CLIPS[:, None] == CLIPS) & ~torch.eye(8, dtype=torch.bool)
    assert (v2t[same] == -torch.inf).all() and (t2v[same] == -torch.inf).all()
    assert v2t[~same].isfinite().all() and loss.isfinite()
    # an epsilon of change in a masked similarity changes nothing, so it has no gradient
    t.requires_grad_()
    vtc_loss(v, t, v, t.detach(), 0, 0.07, CLIPS)[0].backward()
    assert t.grad.isfinite().all()


def test_vtc_over_processes_equals_vtc_of_the_whole_batch_with_several_captions_per_clip() -> None:
    g = torch.Generator().manual_seed(0)
    v, t = (torch.nn.functional.normalize(torch.randn(8, 6, generator=g, dtype=torch.float64), dim=1) for _ in range(2))
    rows = [slice(0, 4), slice(4, 8)]  # clips 0 and 1, clip 2
    parts = [vtc_loss(v[r], t[r], v, t, r.start, 0.07, CLIPS[r] - CLIPS[r][0])[0] for r in rows]
    torch.testing.assert_close(sum(parts) / 2, vtc_loss(v, t, v, t, 0, 0.07, CLIPS)[0])


def test_negatives_are_never_of_the_same_clip(pair: tuple[Batch, Batch]) -> None:
    model = exact("retrieval").eval()
    video, text = model.encode_video(pair[0].pixels), model.encode_text(pair[0].input_ids, pair[0].attention_mask)
    contrast = model.contrast(video, text, clips=CLIPS)
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(300):
        clips, texts = model.draw_negatives(contrast, generator, len(video))
        assert (CLIPS[clips] != CLIPS).all() and (CLIPS[texts] != CLIPS).all()
        seen |= set(clips.tolist())
    assert seen == set(range(8))


def test_batch_of_one_clip_with_several_captions_has_no_negatives(pair: tuple[Batch, Batch]) -> None:
    alone = replace(pair[0], clips=torch.zeros(8, dtype=torch.long), pixels=pair[0].pixels[:1])
    output = exact("retrieval")(alone)
    assert output.counts == {"vtc": 8, "vtm": 8} and output.targets["vtm"].tolist() == [1] * 8
    assert output.losses["vtc"].item() == 0  # nothing to tell apart
    output.total.backward()
