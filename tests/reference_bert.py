"""Configuration of transformers' BERT, with which the project's own layers are compared."""

from __future__ import annotations

from transformers import BertConfig

from alpro.config import Model


def bert_config(config: Model) -> BertConfig:
    """Return the configuration of a BERT of these sizes."""
    return BertConfig(
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
