"""The prompter: trained first with VTC only, then frozen to label the entities of crops (paper section 3.3).

Letters: B batch, E entities, P templates, L text tokens, C width of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alpro.config import Model
from alpro.data.batches.batch import Batch
from alpro.errors import TrainingError
from alpro.models.bert import MaskedLM
from alpro.models.encoders import Alpro, Announce, Output, ignore_counts
from alpro.models.timesformer import Checkpointing

TEMPLATES = {
    "video": (
        "A footage of a {}.",
        "A footage of the {}.",
        "A footage of one {}.",
        "A video of a {}.",
        "A video of the {}.",
        "A video of one {}.",
        "A portrait of a {}.",
        "A portrait of the {}.",
        "A portrait of one {}.",
        "A video footage of a {}.",
        "A video footage of the {}.",
        "A video footage of one {}.",
    ),
    "image": (
        "A photo of a {}.",
        "A photo of the {}.",
        "A photo of one {}.",
        "A picture of a {}.",
        "A picture of the {}.",
        "A picture of one {}.",
        "A good photo of the {}.",
        "A good photo of a {}.",
        "A good photo of one {}.",
        "A good picture of the {}.",
        "A good picture of a {}.",
        "A good picture of one {}.",
    ),
}


class Prompter(Alpro):
    """Both encoders, and the features of each entity's prompts, for videos and for images."""

    video_prompt_feat: Tensor  # (E, C)
    image_prompt_feat: Tensor

    def __init__(
        self, config: Model, num_frames: int, num_entities: int, gradient_checkpointing: Checkpointing = "none"
    ) -> None:
        super().__init__(config, num_frames, gradient_checkpointing, MaskedLM)
        self.register_buffer("video_prompt_feat", torch.zeros(num_entities, config.embed_dim))
        self.register_buffer("image_prompt_feat", torch.zeros(num_entities, config.embed_dim))
        self._prompts_checked = False

    def forward(self, batch: Batch, generator: torch.Generator | None = None, announce: Announce = ignore_counts) -> Output:
        """Compute VTC of a batch of captioned clips. Only dropout is random."""
        counts: dict[str, Tensor | int] = {"vtc": len(batch.input_ids)}
        announce(counts)
        video = self.encode_video(batch.pixels, cls_only=True)
        text = self.encode_text(batch.input_ids, batch.attention_mask)
        contrast = self.contrast(video, text)
        loss, video_to_text = contrast.vtc()
        targets = torch.arange(contrast.offset, contrast.offset + len(video), device=video.device)
        return Output({"vtc": loss}, counts, {"vtc": video_to_text}, {"vtc": targets})

    @torch.no_grad()
    def entity_logits(self, pixels: Tensor, media: str) -> Tensor:
        """Return the similarity of clips (B, T, 3, H, W) to each entity's prompts, divided by the temperature: (B, E).

        Raises TrainingError if the prompt features were never computed: all entities would be equally likely.
        """
        prompts = self.image_prompt_feat if media == "image" else self.video_prompt_feat
        if not self._prompts_checked:
            if not prompts.any(1).all():
                raise TrainingError("the prompter has no entity prompts; call set_prompts with its entity list and tokenizer")
            self._prompts_checked = True
        feature = self.video_feature(self.encode_video(pixels, cls_only=True))
        with torch.autocast(feature.device.type, enabled=False):
            return feature @ prompts.T / self.temp

    def set_prompts(self, entities: Sequence[str], tokenizer: Any, ensemble: bool = True, batch_size: int = 256) -> None:
        """Compute the prompt features of an entity list; without `ensemble`, from the first template only.

        `tokenizer` is a transformers tokenizer. Prompts are not truncated: all fit into 15 tokens, the official length.
        """
        for media, buffer in (("video", "video_prompt_feat"), ("image", "image_prompt_feat")):
            texts = entity_prompts(entities, TEMPLATES[media] if ensemble else TEMPLATES[media][:1])
            tokens = tokenizer(texts, padding=True, return_tensors="pt")
            features = self.prompt_features(tokens["input_ids"], tokens["attention_mask"], len(entities), batch_size)
            setattr(self, buffer, features.to(self.temp.device))
        self._prompts_checked = False

    @torch.no_grad()
    def prompt_features(self, input_ids: Tensor, attention_mask: Tensor, entities: int, batch_size: int = 256) -> Tensor:
        """Encode tokens (P*E, L), template after template; return the mean of each entity's unit vectors, (E, C).

        As in the released code, the mean is not normalised again; its norm is slightly under 1.
        """
        training, device = self.training, self.temp.device
        self.eval()
        features = [
            self.text_feature(self.encode_text(ids.to(device), mask.to(device)))
            for ids, mask in zip(input_ids.split(batch_size), attention_mask.split(batch_size), strict=True)
        ]
        self.train(training)
        if not features:
            return torch.zeros(0, self.config.embed_dim)
        return torch.cat(features).unflatten(0, (-1, entities)).mean(0)


def entity_prompts(entities: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return every entity in the first template, then every entity in the second, and so on."""
    return [template.format(entity) for template in templates for entity in entities]
