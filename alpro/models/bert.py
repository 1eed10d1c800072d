"""BERT's lower half as the text encoder, its upper half as the multimodal encoder (paper section 3.1).

Both halves are self-attention layers of one BERT: the text encoder reads tokens, the multimodal encoder reads the text's
features and the video's in one sequence [text ; video]. Letters: B batch, L text tokens, V video tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alpro.config import Model
from alpro.models.bert_layers import BertEmbeddings, BertLayer, MaskedLMHead

MASKED = -10000.0  # added to the attention scores of padding tokens


class Bert(nn.Module):
    """Text encoder and multimodal encoder."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.text_layers = config.text_layers
        self.embeddings = BertEmbeddings(config)
        self.encoder = nn.Module()  # the official names have this level
        self.encoder.layer = nn.ModuleList(BertLayer(config) for _ in range(config.text_layers + config.fusion_layers))

    @property
    def layers(self) -> list[BertLayer]:
        """All layers, the text encoder's first."""
        return cast(list[BertLayer], list(self.encoder.get_submodule("layer").children()))

    def text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode tokens (B, L) with their mask (1 = a token): (B, L, D)."""
        x: Tensor = self.embeddings(input_ids)
        mask = additive(attention_mask, x.dtype)
        for layer in self.layers[: self.text_layers]:
            x = layer(x, mask)
        return x

    def fuse(self, text: Tensor, text_mask: Tensor, video: Tensor, cls_only: bool = False) -> Tensor:
        """Fuse text (B, L, D), its mask (B, L) and video (B, V, D): (B, L+V, D), or only [CLS], (B, 1, D), with `cls_only`.

        With `cls_only` the last layer does less work.
        """
        size, tokens = len(text), 1 if cls_only else text.shape[1] + video.shape[1]
        return self.fuse_groups(text, text_mask, video, [(size, tokens)])[0]

    def fuse_groups(self, text: Tensor, text_mask: Tensor, video: Tensor, groups: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Fuse as `fuse` does, but return (rows, tokens, D) for each of the consecutive `groups` (rows, first tokens needed).

        All rows go through the layers together, except the last layer, which computes only the needed tokens of each group.
        """
        x = torch.cat([text, video], 1)
        mask = additive(F.pad(text_mask, (0, video.shape[1]), value=1), x.dtype)
        *layers, last = self.layers[self.text_layers :]
        for layer in layers:
            x = layer(x, mask)
        rows = [count for count, _ in groups]
        by_group = zip(x.split(rows), mask.split(rows), groups, strict=True)
        return [last(group, group_mask, tokens) for group, group_mask, (_, tokens) in by_group]


class MaskedLM(nn.Module):
    """Bert with the masked-language-modeling head; its decoder is the word embedding."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.bert = Bert(config)
        self.cls = MaskedLMHead(config)
        self.tie()

    def tie(self) -> None:
        """Tie the decoder to the word embedding, and both names of its bias to one tensor."""
        head = self.cls.predictions
        head.decoder.weight = self.bert.embeddings.word_embeddings.weight
        head.decoder.bias = head.bias


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a mask (B, L) of 1 and 0 to (B, 1, 1, L), to be added to attention scores."""
    return (1 - mask[:, None, None, :].to(dtype)) * MASKED
