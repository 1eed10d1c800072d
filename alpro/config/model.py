"""The model section of params.yaml."""

from __future__ import annotations

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from alpro.config.base import Section


class Model(Section):
    """Sizes of the model. The defaults are those of ALPRO (TimeSformer-B/16 and BERT-base)."""

    image_size: PositiveInt = Field(224, description="Height and width of a frame, in pixels.")
    patch_size: PositiveInt = 16
    width: PositiveInt = Field(768, description="Width of the vision, text and multimodal encoders.")
    heads: PositiveInt = 12
    intermediate: PositiveInt = Field(3072, description="Hidden width of the MLPs.")
    vision_layers: PositiveInt = 12
    text_layers: PositiveInt = Field(6, description="Layers of the text encoder (BERT's lower half).")
    fusion_layers: PositiveInt = Field(6, description="Layers of the multimodal encoder (BERT's upper half).")
    embed_dim: PositiveInt = Field(256, description="Width of the embedding space of VTC.")
    vocab_size: PositiveInt = 30522
    max_positions: PositiveInt = 512
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of the text and multimodal encoders.")
    drop_path: float = Field(
        0.1, ge=0, lt=1, description="Stochastic depth rate of the last vision block; it grows linearly from 0 in the first."
    )
    temperature: PositiveFloat = Field(
        0.07, description="Initial temperature of VTC; it is learned and clamped to [0.001, 0.5]."
    )

    @model_validator(mode="after")
    def _check_sizes(self) -> Model:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self
