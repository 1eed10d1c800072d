"""The text encoder and the multimodal encoder are BERT's two halves."""

from __future__ import annotations

import torch
from torch import nn
from transformers import BertModel

from alpro.models.bert import MASKED, additive, attend, bert_config


def test_text_and_multimodal_encoder_together_equal_bert(small, batch):
    model = small("qa").eval()
    config = bert_config(model.config)
    config._attn_implementation = "sdpa"  # the implementation and mask of transformers
    bert = BertModel(config, add_pooling_layer=False).eval()
    state = {k: v for k, v in model.text_encoder.state_dict().items() if not k.endswith("position_ids")}
    bert.load_state_dict(state)
    b = batch()
    text = model.encode_text(b.input_ids, b.attention_mask)
    nothing = torch.zeros(len(text), 0, model.config.width)
    whole = bert(b.input_ids, b.attention_mask).last_hidden_state
    real = b.attention_mask.bool()
    torch.testing.assert_close(model.fuse(text, b.attention_mask, nothing)[real], whole[real], rtol=1e-5, atol=1e-5)


def test_cls_only_fusion_equals_full_fusion(small, batch):
    model = small("retrieval").eval()
    b = batch()
    video, text = model.encode_video(b.pixels), model.encode_text(b.input_ids, b.attention_mask)
    whole = model.fuse(text, b.attention_mask, video)
    alone = model.fuse(text, b.attention_mask, video, cls_only=True)
    assert whole.shape[1] == text.shape[1] + video.shape[1] and alone.shape[1] == 1
    torch.testing.assert_close(alone, whole[:, :1], rtol=1e-6, atol=1e-6)


def test_cls_only_fusion_has_the_same_gradients(small, batch):
    model = small("qa").eval()
    b = batch()
    grads = []
    for cls_only in (False, True):
        model.zero_grad()
        video, text = model.encode_video(b.pixels), model.encode_text(b.input_ids, b.attention_mask)
        model.fuse(text, b.attention_mask, video, cls_only)[:, 0].square().sum().backward()
        grads.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for key in grads[0]:
        torch.testing.assert_close(grads[1][key], grads[0][key], rtol=1e-4, atol=1e-5)


def test_rows_fused_in_groups_equal_rows_fused_singly(small, batch):
    """Compare values and gradients of groups with all, some or one of their tokens, and of an empty group."""
    model, b = small("qa").double().eval(), batch()
    seen = []
    for batched in (True, False):
        model.zero_grad()
        video, text = model.encode_video(b.pixels.double() / 255), model.encode_text(b.input_ids, b.attention_mask)
        groups = [(2, text.shape[1] + video.shape[1]), (0, 1), (1, text.shape[1]), (len(text) - 3, 1)]
        if batched:
            fused = model.bert.fuse_groups(text, b.attention_mask, video, groups)
        else:
            whole = [model.fuse(*(x[[row]] for x in (text, b.attention_mask, video))) for row in range(len(text))]
            fused = [torch.cat(whole[:2]), whole[0][:0, :1], whole[2][:, : text.shape[1]], torch.cat(whole[3:])[:, :1]]
        sum(x.square().sum() for x in fused).backward()
        seen.append((fused, {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}))
    (together, gradients), (alone, expected) = seen
    for got, want in zip(together, alone, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-9, atol=1e-10)


def test_padding_does_not_change_the_output(small, batch):
    model = small("retrieval").eval()
    b = batch()
    longer = torch.nn.functional.pad(b.input_ids, (0, 9)), torch.nn.functional.pad(b.attention_mask, (0, 9))
    video = model.encode_video(b.pixels)
    short, long = model.encode_text(b.input_ids, b.attention_mask), model.encode_text(*longer)
    torch.testing.assert_close(long[:, : short.shape[1]], short, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        model.match(long, longer[1], video), model.match(short, b.attention_mask, video), rtol=1e-5, atol=1e-5
    )


def test_explicit_attention_matches_fused_kernel():
    """Use a dropout rate that rounds to zero: it selects the explicit products but drops nothing."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 7, 4, generator=g, requires_grad=True) for _ in range(3))
    mask = torch.zeros(2, 1, 1, 7)
    mask[0, ..., 5:] = MASKED
    results = []
    for rate in (0.0, 1e-9):
        out, _ = attend(nn.Module(), q, k, v, mask, dropout=rate, scaling=0.5)
        results.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    for fused, explicit in zip(*results, strict=True):
        torch.testing.assert_close(explicit, fused, rtol=1e-5, atol=1e-6)


def test_attention_dropout_applies_only_in_training(small, batch):
    model = small("qa")
    b = batch()
    layer = model.bert.layers[0]
    x, mask = model.bert.embeddings(b.input_ids), additive(b.attention_mask, torch.float32)
    layer.attention.self.dropout.p = 0.5
    layer.train()
    assert not torch.equal(layer.attention.self(x, mask)[0], layer.attention.self(x, mask)[0])
    layer.eval()
    assert torch.equal(layer.attention.self(x, mask)[0], layer.attention.self(x, mask)[0])
