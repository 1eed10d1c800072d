"""Entity prompts: made from templates, averaged, and used by pre-training."""

from __future__ import annotations

import pytest
import torch

from alpro.errors import TrainingError
from alpro.models.prompter import TEMPLATES, entity_prompts


class WordTokenizer:
    """Tokenizer of whole words with the interface of transformers' tokenizers."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    def __call__(self, texts, padding, return_tensors):
        ids = [[1, *(self.words.setdefault(w, 5 + len(self.words) % 90) for w in text.split()), 2] for text in texts]
        longest = max(map(len, ids))
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
        return {"input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in ids]), "attention_mask": mask}


def test_prompts_are_ordered_by_template():
    assert entity_prompts(["man", "dog"], TEMPLATES["image"][:2]) == [
        "A photo of a man.",
        "A photo of a dog.",
        "A photo of the man.",
        "A photo of the dog.",
    ]


@pytest.mark.parametrize("ensemble", [True, False])
def test_features_are_the_mean_over_templates_for_any_batch_size(small, ensemble):
    model, tokenizer = small("prompter").train(), WordTokenizer()
    entities = ["man", "dog", "car", "tree"]
    model.set_prompts(entities, tokenizer, ensemble, batch_size=5)
    assert model.training and model.video_prompt_feat.shape == (4, 16)
    model.eval()
    templates = TEMPLATES["video"] if ensemble else TEMPLATES["video"][:1]
    for i, entity in enumerate(entities):
        tokens = tokenizer([template.format(entity) for template in templates], True, "pt")
        want = model.text_feature(model.encode_text(tokens["input_ids"], tokens["attention_mask"])).mean(0)
        torch.testing.assert_close(model.video_prompt_feat[i], want, rtol=1e-5, atol=1e-6)
    if ensemble:
        assert (model.video_prompt_feat.norm(dim=1) < 1).all()  # not normalised again


def test_prompts_are_saved_with_the_model(small):
    model = small("prompter")
    model.set_prompts(["man"] * 6, WordTokenizer())
    other = small("prompter")
    other.load_state_dict(model.state_dict())
    assert other.image_prompt_feat.equal(model.image_prompt_feat)


def test_prompter_without_prompts_is_refused(small, batch):
    model = small("pretrain")
    model.prompter.video_prompt_feat.zero_()
    with pytest.raises(TrainingError, match="set_prompts"):
        model(batch())


def test_images_use_image_prompts(small, batch):
    prompter = small("prompter").eval()
    pixels = batch().pixels
    video, image = prompter.entity_logits(pixels, "video"), prompter.entity_logits(pixels, "image")
    feature = prompter.video_feature(prompter.encode_video(pixels))
    torch.testing.assert_close(image, feature @ prompter.image_prompt_feat.T / prompter.temp)
    assert not video.equal(image) and not video.requires_grad
