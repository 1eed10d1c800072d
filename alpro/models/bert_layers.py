"""BERT's embeddings, layers and masked-language-modeling head (arXiv 1810.04805), with the parameter names of transformers.

They are written out here because importing transformers' takes each process of a training two to three times as long as
importing torch. The tests compare them with transformers' BERT. Letters: B batch, L tokens, H heads, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alpro.config import Model
from alpro.models.dropout import Dropout
from alpro.models.dropout import dropout as drop

EPS = 1e-12
PADDING = 0  # token id of [PAD]
TOKEN_TYPES = 2


class BertEmbeddings(nn.Module):
    """Sum of the embeddings of words, positions and token type 0: (B, L) -> (B, L, D)."""

    position_ids: Tensor

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.width, padding_idx=PADDING)
        self.position_embeddings = nn.Embedding(config.max_positions, config.width)
        self.token_type_embeddings = nn.Embedding(TOKEN_TYPES, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=EPS)
        self.dropout = Dropout(config.dropout)
        self.register_buffer("position_ids", torch.arange(config.max_positions).expand(1, -1))  # official files contain it

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed the token ids (B, L)."""
        positions = self.position_ids[:, : input_ids.shape[1]]
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(torch.zeros_like(input_ids))
        x = self.LayerNorm(x + self.position_embeddings(positions))
        return self.dropout(x)  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Multi-head attention, without the output projection."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.heads = config.heads
        self.scaling = (config.width // config.heads) ** -0.5
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, count: int | None = None) -> Tensor:
        """Attend to all tokens (B, L, D) with an additive mask (B, 1, 1, L), from the first `count` tokens or from all."""
        q, k, v = self._split(self.query(x[:, :count])), self._split(self.key(x)), self._split(self.value(x))
        return attend(q, k, v, mask, self.scaling, self.dropout.p if self.training else 0.0)

    def _split(self, x: Tensor) -> Tensor:
        """Reshape (B, L, D) to (B, H, L, D/H)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class ResidualOutput(nn.Module):
    """Linear layer and dropout, added to the input of the block, then LayerNorm."""

    def __init__(self, inputs: int, config: Model) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=EPS)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Project (B, L, inputs) and add (B, L, D)."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention block."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = ResidualOutput(config.width, config)


class Intermediate(nn.Module):
    """First layer of the feed-forward block."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.intermediate)

    def forward(self, x: Tensor) -> Tensor:
        """Widen (B, L, D)."""
        return F.gelu(self.dense(x))


class BertLayer(nn.Module):
    """Self-attention and feed-forward block: (B, L, D) -> (B, L, D)."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = ResidualOutput(config.intermediate, config)

    def forward(self, x: Tensor, mask: Tensor, count: int | None = None) -> Tensor:
        """Compute all tokens, or only the first `count`, which attend to all. The mask (B, 1, 1, L) is additive."""
        x = self.attention.output(self.attention.self(x, mask, count), x[:, :count])
        return self.output(self.intermediate(x), x)  # type: ignore[no-any-return]


class Transform(nn.Module):
    """Hidden layer of the masked-language-modeling head."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, L, D)."""
        return self.LayerNorm(F.gelu(self.dense(x)))  # type: ignore[no-any-return]


class Predictions(nn.Module):
    """Masked-language-modeling head: (B, L, D) -> logits (B, L, words). The decoder's bias has two names in official files."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.decoder = nn.Linear(config.width, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each word."""
        return self.decoder(self.transform(x))  # type: ignore[no-any-return]


class MaskedLMHead(nn.Module):
    """The head at the level that official names have."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.predictions = Predictions(config)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each word."""
        return self.predictions(x)  # type: ignore[no-any-return]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float, dropout: float = 0.0) -> Tensor:
    """Attend with queries (B, H, Q, D/H), keys and values (B, H, L, D/H) and an additive mask (B, 1, 1, L): (B, Q, D).

    With dropout there is no fused kernel on a CPU. torch's fallback would compute in fp32 even under autocast, so the
    products are explicit here.
    """
    mask = mask.to(q.dtype)
    if q.device.type != "cpu" or not dropout:
        mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout, scale=scaling)
    else:
        scores = (q * scaling) @ k.transpose(-2, -1) + mask
        mixed = drop(scores.softmax(-1), dropout) @ v
    return mixed.transpose(1, 2).flatten(2)
