"""The pictures show what the model computes: its own attention, and the prompter's labels of crops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from alpro.models.bert import additive
from alpro.objectives import pem
from alpro.served.inference import encode_clips, read_frames
from alpro.served.limits import RequestError
from alpro.served.look import Prompters, fusion_attention, see_entities, see_words
from alpro.served.stack import Served

from .conftest import CLIPS


def test_attention_is_the_one_inside_the_multimodal_encoder(stack: Served) -> None:
    """The probabilities, applied to the layer's values, give the output of transformers' attention."""
    bert = stack.models.version("search").service.model.bert
    generator = torch.Generator().manual_seed(0)
    text, video = torch.randn(2, 5, 128, generator=generator), torch.randn(2, 17, 128, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    with torch.no_grad():
        (weights,) = fusion_attention(bert, text, mask, video)
        attention = bert.layers[bert.text_layers].attention.self
        x = torch.cat([text, video], 1)
        value = attention.value(x).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
        expected = attention(x, additive(F.pad(mask, (0, 17), value=1), x.dtype))
        expected = expected[0] if isinstance(expected, tuple) else expected
        torch.testing.assert_close((weights @ value).transpose(1, 2).flatten(2), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert weights[1, :, :, 3:5].max() < 1e-6  # padding gets no attention


def test_every_word_has_a_map_over_the_patches(stack: Served) -> None:
    service = stack.models.version("search").service
    (tokens,) = encode_clips(service, [read_frames(service, stack.videos.video(CLIPS[0]))])
    words = see_words(service, tokens, "a red circle moves!")
    assert [word.word for word in words] == ["a", "red", "circle", "moves", "!"]
    assert all(word.heat.shape == (4, 4) and (word.heat > 0).all() for word in words)
    assert all(word.share == pytest.approx(word.heat.sum()) and 0 < word.share < 1 for word in words)
    assert len(see_words(service, tokens, "red " * 500)) <= service.max_text_tokens


def test_entities_of_a_crop_are_the_prompters_labels(stack: Served) -> None:
    prompter = Prompters(stack.root).of(stack.models.version("search"))
    prompter.model.video_prompt_feat.copy_(torch.eye(3, 16))
    assert prompter.name == "models/tiny/pretrain" and list(prompter.entities) == ["ball", "cube", "star"]
    frames = read_frames(stack.models.version("search").service, stack.videos.video(CLIPS[1]))
    crops = see_entities(prompter, frames, count=3, seed=5)
    assert len(crops) == 3 and crops != see_entities(prompter, frames, count=3, seed=6)
    assert crops == see_entities(prompter, frames, count=3, seed=5)
    for crop in crops:
        left, top, width, height = crop.box
        assert left >= 0 and left + width <= 1 and top >= 0 and top + height <= 1
        assert sum(probability for _, probability in crop.entities) == pytest.approx(1, abs=1e-5)  # all three entities
    black_outside = frames.clone()
    left, top, width, height = (round(32 * side) for side in crops[0].box)
    inside = pem.boxes_to_mask(torch.tensor([[left, top, width, height]]), 32, 32)[0]
    black_outside[:, :, ~inside] = 0
    with torch.no_grad():
        labels = pem.soft_labels(prompter.model.entity_logits(prompter_pixels(black_outside), "video"))[0]
    assert dict(crops[0].entities) == pytest.approx(dict(zip(prompter.entities, labels.tolist(), strict=True)), abs=1e-5)


def prompter_pixels(frames: torch.Tensor) -> torch.Tensor:
    from alpro.models.encoders import normalize

    return normalize(frames)[None]


def test_without_a_prompter_the_sentence_says_what_to_do(stack: Served, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no pre-trained model with a prompter") as refused:
        Prompters(tmp_path).of(stack.models.version("search"))
    assert refused.value.status == 503
