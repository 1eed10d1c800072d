"""The tasks' models and their losses, at small size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from alpro.config import PEM, Objectives
from alpro.errors import ConfigError
from alpro.models import TASKS, build_model, normalize
from alpro.models.heads import match_pairs
from alpro.objectives.pem import boxes_to_mask, mean_inside


@pytest.mark.parametrize("task", TASKS)
def test_small_models_can_overfit_a_batch(small, batch, task):
    model = small(task, pem=PEM(threshold=0)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        total = model(batch(), generator).total
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("task", TASKS)
def test_text_padded_to_a_multiple_of_8_changes_no_loss_and_no_gradient(small, batch, task):
    plain, more = batch(), {"input_ids": 0, "attention_mask": 0, "mlm_input_ids": 0, "mlm_labels": -100}
    padded = replace(plain, **{name: F.pad(getattr(plain, name), (0, 1), value=fill) for name, fill in more.items()})
    assert padded.input_ids.shape[1] == 8
    model = small(task, pem=PEM(threshold=0)).double().eval()
    seen = []
    for each in (plain, padded):
        model.zero_grad()
        output = model(replace(each, pixels=normalize(each.pixels).double()), torch.Generator().manual_seed(0))
        output.total.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        seen.append({**output.losses, **output.logits, **gradients})
    expected, found = seen
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("task", TASKS)
def test_bfloat16_autocast_gives_finite_losses_near_those_of_float32(small, batch, task):
    model = small(task, pem=PEM(threshold=0)).eval()
    exact = model(batch(), torch.Generator().manual_seed(0)).losses
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch(), torch.Generator().manual_seed(0))
    output.total.backward()
    for name, loss in output.losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.1, abs=0.05), name
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_pretraining_loss_is_the_sum_of_its_objectives(small, batch):
    """Compare values and gradients of the batched forward pass with those of separately computed objectives."""
    model = small("pretrain", pem=PEM(threshold=0)).double().eval()
    b = batch()
    b = replace(b, pixels=normalize(b.pixels).double())
    negatives = (torch.tensor([1, 2, 3, 0]), torch.tensor([3, 0, 1, 2]))
    output = model(b, negatives=negatives)
    video, text = model.encode_video(b.pixels), model.encode_text(b.input_ids, b.attention_mask)
    mask = b.attention_mask
    pairs = [(i, i) for i in range(4)] + list(enumerate(negatives[0].tolist()))
    pairs += [(t, c) for c, t in enumerate(negatives[1].tolist())]
    fused = torch.cat([model.fuse(text[[t]], mask[[t]], video[[c]]) for t, c in pairs])
    vtm = model.itm_head(fused[:, 0])
    torch.testing.assert_close(output.logits["vtm"], vtm)
    assert output.targets["vtm"].tolist() == [1] * 4 + [0] * 8
    hidden = model.fuse(model.encode_text(b.mlm_input_ids, mask), mask, video)[:, :7]
    mlm = model.text_encoder.cls(hidden[:, 2])
    torch.testing.assert_close(output.logits["mlm"], mlm)
    inside = boxes_to_mask(b.crop_boxes, 32, 32)[:, :: model.config.patch_size, :: model.config.patch_size].flatten(1)
    pem = model.mpm_head(mean_inside(fused[:4, 8:], inside))
    torch.testing.assert_close(output.logits["pem"], pem)
    assert output.counts == {"vtc": 4, "vtm": 12, "mlm": 4, "pem": torch.tensor(4)}
    torch.testing.assert_close(output.total, sum(output.losses.values()))
    weights = [p for p in model.parameters() if p.requires_grad]
    parts = {"vtc": model.contrast(video, text).vtc()[1], "vtm": vtm, "mlm": mlm, "pem": pem}
    for name, logits in parts.items():
        for batched, single in zip(*(gradients(x, weights) for x in (output.logits[name], logits)), strict=True):
            torch.testing.assert_close(batched, single, rtol=1e-7, atol=1e-9)


def gradients(logits, weights):
    """Return the gradients of the sum of squares; zeros for weights that it does not depend on."""
    return torch.autograd.grad(logits.square().sum(), weights, retain_graph=True, materialize_grads=True)


@pytest.mark.parametrize("names", [("vtc",), ("vtm",), ("mlm",), ("pem",), ("mlm", "vtm"), ("vtc", "pem")])
def test_objectives_of_weight_zero_are_skipped_without_changing_others(small, batch, names):
    weights = dict.fromkeys(("vtc", "vtm", "mlm", "pem"), 0.0) | dict.fromkeys(names, 2.0)
    whole = small("pretrain", pem=PEM(threshold=0)).eval()
    part = small("pretrain", pem=PEM(threshold=0), objectives=Objectives(**weights)).eval()
    part.load_state_dict({k: v for k, v in whole.state_dict().items() if k in part.state_dict()})
    negatives = (torch.tensor([1, 2, 3, 0]), torch.tensor([3, 0, 1, 2]))
    ours, theirs = part(batch(), negatives=negatives), whole(batch(), negatives=negatives)
    assert set(ours.losses) == set(names)
    for name in names:
        torch.testing.assert_close(ours.losses[name], theirs.losses[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.total, 2 * sum(ours.losses.values()))
    assert (part.prompter is None) == ("pem" not in names)
    ours.total.backward()
    fused = any(p.grad is not None for layer in part.bert.layers[part.config.text_layers :] for p in layer.parameters())
    assert fused == (names != ("vtc",))  # the optimizer skips parameters without a gradient


@pytest.mark.parametrize(("names", "texts"), [(("mlm",), 4), (("vtc",), 4), (("mlm", "vtm"), 8)])
def test_unused_texts_are_not_encoded(small, batch, names, texts):
    weights = dict.fromkeys(("vtc", "vtm", "mlm", "pem"), 0.0) | dict.fromkeys(names, 1.0)
    model, seen = small("pretrain", objectives=Objectives(**weights)), []
    model.bert.embeddings.register_forward_hook(lambda module, inputs, out: seen.append(len(out)))
    model(batch())
    assert seen == [texts]


def test_prompter_inside_pretraining_is_frozen(small, batch):
    model = small("pretrain", pem=PEM(threshold=0)).train()
    assert model.training and not any(module.training for module in model.prompter.modules())
    model(batch()).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.prompter.parameters())


def test_ignoring_all_crops_gives_zero_loss_and_finite_gradients(small, batch):
    model = small("pretrain", pem=PEM(threshold=0.2)).train()
    model.prompter.video_prompt_feat.fill_(0.25)  # six equal entities have probability 1/6 each, below the threshold
    output = model(batch())
    output.total.backward()
    assert output.losses["pem"].item() == 0 and output.counts["pem"].item() == 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_unmasked_batch_gives_zero_loss_and_finite_gradients(small, batch):
    model = small("pretrain").train()
    output = model(batch(mlm_labels=torch.full((4, 7), -100)))
    output.total.backward()
    assert output.losses["mlm"].item() == 0 and output.counts["mlm"] == 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_unknown_answers_give_zero_loss_and_finite_gradients(small, batch):
    model = small("qa").train()
    output = model(batch(labels=torch.full((4,), -100)))
    output.total.backward()
    assert output.losses["qa"].item() == 0 and output.counts["qa"] == 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_questions_without_labels_give_only_logits(small, batch):
    output = small("qa").eval()(batch(labels=None))
    assert output.logits["qa"].shape == (4, 5) and not output.losses
    with pytest.raises(ValueError, match="no labels"):
        _ = output.total


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("task", ["retrieval", "pretrain"])
def test_batch_of_one_pair_is_trained_without_negatives(small, batch, task, mode):
    """Such a batch occurs in training if the other samples can't be read; training must continue."""
    model = small(task, pem=PEM(threshold=0)).train(mode)
    output = model(batch(1))
    assert output.counts["vtm"] == 1 and output.targets["vtm"].tolist() == [1]
    output.total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.itm_head.weight.grad.any()


@pytest.mark.parametrize("task", ["retrieval", "pretrain"])
def test_negatives_depend_only_on_the_generator(small, batch, task):
    model = small(task).eval()
    totals = []
    for state, seed in enumerate((0, 0, 1, 2, 3)):
        torch.manual_seed(state)
        totals.append(model(batch(8), torch.Generator().manual_seed(seed)).losses["vtm"].item())
    assert totals[0] == totals[1] and len(set(totals)) > 2


def test_pairs_are_matches_then_wrong_clips_then_wrong_texts():
    texts, clips, labels = match_pairs(3, (torch.tensor([1, 2, 0]), torch.tensor([2, 0, 1])))
    assert texts.tolist() == [0, 1, 2, 0, 1, 2, 2, 0, 1]
    assert clips.tolist() == [0, 1, 2, 1, 2, 0, 0, 1, 2]
    assert labels.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_temperature_is_clamped_in_training_only(small, batch):
    model = small("retrieval").eval()
    with torch.no_grad():
        model.temp.fill_(3.0)
    model(batch())
    assert model.temp.item() == 3.0
    model.train()(batch())
    assert model.temp.item() == 0.5


def test_pixels_can_be_bytes_or_normalised(small, batch):
    model = small("retrieval").eval()
    b = batch()
    one, two = (model(x, torch.Generator().manual_seed(0)).total for x in (b, replace(b, pixels=normalize(b.pixels))))
    assert one.equal(two)


def test_missing_tensor_is_reported_by_name(small, batch):
    with pytest.raises(ValueError, match="crop_boxes is missing"):
        small("pretrain")(batch(crop_boxes=None))


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("caption", {}, "must be one of prompter, pretrain, retrieval, qa"),
        ("qa", {}, "needs num_answers"),
        ("pretrain", {}, "needs num_entities"),
        ("retrieval", {"image_size": 50}, "not a multiple of patch_size"),
    ],
)
def test_invalid_model_settings_are_refused(task, arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_model(task, num_frames=2, seed=None, **arguments)
