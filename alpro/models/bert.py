"""BERT's lower half as the text encoder, its upper half as the multimodal encoder (paper section 3.1).

Both halves are self-attention layers of one BERT: the text encoder reads tokens, the multimodal encoder reads the text's
features and the video's in one sequence [text ; video]. Letters: B batch, L text tokens, V video tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, BertConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.bert.modeling_bert import BertEmbeddings, BertLayer, BertOnlyMLMHead

from alpro.config import Model
from alpro.models.dropout import Dropout
from alpro.models.dropout import dropout as drop

ATTENTION = "alpro"  # name of `attend` in transformers' registry
MASKED = -10000.0  # added to the attention scores of padding tokens


class Bert(nn.Module):
    """Text encoder and multimodal encoder."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.text_layers = config.text_layers
        bert = bert_config(config)
        self.embeddings = BertEmbeddings(bert)
        # Official files contain position_ids, so the buffer is saved. Token types are all zero and created on the fly.
        self.embeddings.register_buffer("position_ids", torch.arange(config.max_positions).expand(1, -1))
        del self.embeddings.token_type_ids
        self.encoder = nn.Module()  # the official names have this level
        self.encoder.layer = nn.ModuleList(BertLayer(bert) for _ in range(bert.num_hidden_layers))
        for module in list(self.modules()):
            for name, child in module.named_children():
                if type(child) is nn.Dropout:
                    setattr(module, name, Dropout(child.p))

    @property
    def layers(self) -> list[BertLayer]:
        """All layers, the text encoder's first."""
        return cast(list[BertLayer], list(self.encoder.get_submodule("layer").children()))

    def text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode tokens (B, L) with their mask (1 = a token): (B, L, D)."""
        x = self.embeddings(input_ids)
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
        for layer in layers if len(x) else ():  # transformers' layers can't take an empty batch
            x = layer(x, mask)
        rows = [count for count, _ in groups]
        by_group = zip(x.split(rows), mask.split(rows), groups, strict=True)
        return [_first_tokens(last, group, group_mask, tokens) for group, group_mask, (_, tokens) in by_group]


class MaskedLM(nn.Module):
    """Bert with the masked-language-modeling head; its decoder is the word embedding."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.bert = Bert(config)
        self.cls = BertOnlyMLMHead(bert_config(config))
        self.tie()

    def tie(self) -> None:
        """Tie the decoder to the word embedding, and both names of its bias to one tensor."""
        head = self.cls.predictions
        head.decoder.weight = self.bert.embeddings.word_embeddings.weight
        head.decoder.bias = head.bias


def bert_config(config: Model) -> BertConfig:
    """Return transformers' configuration of a BERT of these sizes."""
    description = BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        num_hidden_layers=config.text_layers + config.fusion_layers,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        max_position_embeddings=config.max_positions,
        layer_norm_eps=1e-12,
    )
    description._attn_implementation = ATTENTION
    return description


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend, behind transformers' interface: three (B, heads, L, head width), additive mask -> (B, L, heads, head width).

    With dropout there is no fused kernel on a CPU. torch's fallback would compute in fp32 even under autocast, so the
    products are explicit here.
    """
    if query.device.type != "cpu" or not dropout:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    scores = (query * scaling) @ key.transpose(-2, -1) + attention_mask.to(query.dtype)
    weights = drop(scores.softmax(-1), dropout)
    return (weights @ value).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attend)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a mask (B, L) of 1 and 0 to (B, 1, 1, L), to be added to attention scores."""
    return (1 - mask[:, None, None, :].to(dtype)) * MASKED


def _first_tokens(layer: BertLayer, x: Tensor, mask: Tensor, count: int) -> Tensor:
    """Compute `layer(x, mask)[:, :count]` with queries only for the first `count` tokens."""
    if not len(x):  # transformers' layers can't take an empty batch
        return x[:, :count]
    if count == x.shape[1]:
        return cast(Tensor, layer(x, mask))
    attention, first = layer.attention.self, x[:, :count]

    def heads(t: Tensor) -> Tensor:
        return t.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)

    q, k, v = heads(attention.query(first)), heads(attention.key(x)), heads(attention.value(x))
    dropout = attention.dropout.p if attention.training else 0.0
    context, _ = attend(attention, q, k, v, mask.to(q.dtype), dropout=dropout, scaling=attention.scaling)
    context = layer.attention.output(context.flatten(2), first)
    return layer.feed_forward_chunk(context)
