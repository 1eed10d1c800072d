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

ATTENTION = "alpro"  # the name under which transformers knows `attend`
MASKED = -10000.0  # what is added to the attention score of a padding token


class Bert(nn.Module):
    """Text encoder and multimodal encoder."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.text_layers = config.text_layers
        bert = bert_config(config)
        self.embeddings = BertEmbeddings(bert)
        # Official files hold the positions, so the buffer is saved; token types are all zero and made on the fly.
        self.embeddings.register_buffer("position_ids", torch.arange(config.max_positions).expand(1, -1))
        del self.embeddings.token_type_ids
        self.encoder = nn.Module()  # the level of the official names
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
        """Tokens (B, L) and their mask (1 = a token) -> (B, L, D)."""
        x = self.embeddings(input_ids)
        mask = additive(attention_mask, x.dtype)
        for layer in self.layers[: self.text_layers]:
            x = layer(x, mask)
        return x

    def fuse(self, text: Tensor, text_mask: Tensor, video: Tensor, cls_only: bool = False) -> Tensor:
        """(B, L, D), (B, L), (B, V, D) -> (B, L+V, D); with `cls_only` (B, 1, D), for which the last layer does less work."""
        size, tokens = len(text), 1 if cls_only else text.shape[1] + video.shape[1]
        return self.fuse_parts(text, text_mask, video, [(size, tokens)])[0]

    def fuse_parts(self, text: Tensor, text_mask: Tensor, video: Tensor, parts: Sequence[tuple[int, int]]) -> list[Tensor]:
        """As `fuse`, but each of the `parts`, (rows, how many of their first tokens are wanted), gives (rows, tokens, D).

        All go through the layers together but for the last, which works for the tokens that are asked for.
        """
        x = torch.cat([text, video], 1)
        mask = additive(F.pad(text_mask, (0, video.shape[1]), value=1), x.dtype)
        *layers, last = self.layers[self.text_layers :]
        for layer in layers if len(x) else ():  # transformers' layers can't take no rows
            x = layer(x, mask)
        rows = [count for count, _ in parts]
        wanted = zip(x.split(rows), mask.split(rows), parts, strict=True)
        return [_first_tokens(last, own, own_mask, tokens) for own, own_mask, (_, tokens) in wanted]


class MaskedLM(nn.Module):
    """Bert with the head of masked language modeling, whose decoder is the word embedding."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.bert = Bert(config)
        self.cls = BertOnlyMLMHead(bert_config(config))
        self.tie()

    def tie(self) -> None:
        """Make the decoder share the word embedding, and the two names of its bias one tensor."""
        head = self.cls.predictions
        head.decoder.weight = self.bert.embeddings.word_embeddings.weight
        head.decoder.bias = head.bias


def bert_config(config: Model) -> BertConfig:
    """transformers' description of a BERT of these sizes."""
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
    """transformers' interface: (B, heads, L, width of a head) thrice and a mask to add -> (B, L, heads, width of a head).

    No fused kernel of a CPU knows dropout: torch would take explicit products there too, in fp32 also under autocast.
    """
    if query.device.type != "cpu" or not dropout:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    scores = (query * scaling) @ key.transpose(-2, -1) + attention_mask.to(query.dtype)
    weights = drop(scores.softmax(-1), dropout)
    return (weights @ value).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attend)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask (B, L) of 1 and 0 as (B, 1, 1, L) to add to attention scores."""
    return (1 - mask[:, None, None, :].to(dtype)) * MASKED


def _first_tokens(layer: BertLayer, x: Tensor, mask: Tensor, count: int) -> Tensor:
    """What `layer(x, mask)[:, :count]` is, with so many queries instead of all."""
    if not len(x):  # which transformers' layers can't take
        return x[:, :count]
    if count == x.shape[1]:
        return cast(Tensor, layer(x, mask))
    own, asked = layer.attention.self, x[:, :count]

    def heads(t: Tensor) -> Tensor:
        return t.unflatten(-1, (own.num_attention_heads, -1)).transpose(1, 2)

    q, k, v = heads(own.query(asked)), heads(own.key(x)), heads(own.value(x))
    context, _ = attend(own, q, k, v, mask.to(q.dtype), dropout=own.dropout.p if own.training else 0.0, scaling=own.scaling)
    context = layer.attention.output(context.flatten(2), asked)
    return layer.feed_forward_chunk(context)
