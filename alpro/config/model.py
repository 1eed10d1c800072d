"""alpro/config/model.py: NEW MODULE."""

from __future__ import annotations

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from alpro.config.base import Section

# --- the model --------------------------------------------------------------------------------------------


class Model(Section):
    """Sizes of the model; the defaults are ALPRO's (TimeSformer-B/16 and BERT-base)."""

    image_size: PositiveInt = Field(224, description="Side of the square frames, in pixels.")
    patch_size: PositiveInt = 16
    width: PositiveInt = Field(768, description="Width of the vision, text and multimodal encoders.")
    heads: PositiveInt = 12
    intermediate: PositiveInt = Field(3072, description="Hidden width of every MLP.")
    vision_layers: PositiveInt = 12
    text_layers: PositiveInt = Field(6, description="Layers of the text encoder (BERT's lower half).")
    fusion_layers: PositiveInt = Field(6, description="Layers of the multimodal encoder (BERT's upper half).")
    embed_dim: PositiveInt = Field(256, description="Width of the space in which VTC compares.")
    vocab_size: PositiveInt = 30522
    max_positions: PositiveInt = 512
    dropout: float = Field(0.1, ge=0, lt=1, description="Of the text and multimodal encoders.")
    drop_path: float = Field(0.1, ge=0, lt=1, description="Of the last block of the vision encoder; 0 in the first.")
    temperature: PositiveFloat = Field(0.07, description="VTC's at the start; learned, clamped to [0.001, 0.5].")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Model:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self
