"""alpro/config/training.py: NEW MODULE."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from alpro.config.base import Section

# --- training ---------------------------------------------------------------------------------------------


class RandAugment(Section):
    """RandAugment, the same for all frames of a clip."""

    operations: PositiveInt = 2
    magnitude: PositiveFloat = 5


class Training(Section):
    """One training; the defaults hold for all four."""

    epochs: PositiveInt
    max_steps: PositiveInt | None = Field(None, description="Stop after so many optimizer steps; null: all epochs.")
    batch_size: PositiveInt = Field(description="Samples per process and micro-step.")
    accumulation: PositiveInt = Field(1, description="Micro-steps per optimizer step.")
    accumulate: Literal["mean", "sum"] = Field("mean", description="What is made of the micro-steps' gradients.")
    average: Literal["items", "processes"] = Field(
        "items", description="What a loss is a mean of: all items (masked tokens, kept crops), or the processes' own means."
    )
    compression: Literal["none", "fp16"] = Field("none", description="In what the gradients travel; none: as they are, fp32.")
    learning_rate: PositiveFloat
    weight_decay: float = Field(0.001, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: PositiveFloat = 1e-6
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Share of all steps in which the rate grows.")
    grad_clip: PositiveFloat = Field(description="Largest norm of the whole gradient.")
    num_frames: PositiveInt
    max_text_tokens: PositiveInt
    validations: PositiveInt = Field(description="How often the validation split is evaluated, evenly over the steps.")
    train_frames: Literal["random", "headtail", "uniform"] = "headtail"
    eval_frames: Literal["uniform", "uniform_floor", "headtail"] = "uniform"
    decode_size: PositiveInt | None = Field(None, description="Frames are read at this side, then cropped; null: the model's.")
    randaugment: RandAugment | None = RandAugment()
    reshuffle: bool = Field(True, description="A new order in every epoch.")
    distinct_videos: bool = Field(True, description="No two captions of one video in a batch.")
    gradient_checkpointing: Literal["none", "exact", "official"] = Field(
        "none", description="Of the vision encoder; `official` loses the attention's and MLP's gradients, as the released code."
    )
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    select_by: str = Field(description="Validation metric that says which checkpoint is best; `-name`: smaller is better.")
    keep: list[Literal["best", "last", "every"]] = Field(
        ["best"],
        min_length=1,
        description="Checkpoints: `best`, or else `last`, is the output; both: last/; `every` validation's: step-*/.",
    )
    save_every_s: PositiveFloat = Field(600, description="Resume state is written at least so often.")
    log_every: PositiveInt = Field(10, description="Steps between two log lines.")

    @field_validator("keep")
    @classmethod
    def _something_is_the_output(cls, keep: list[str]) -> list[str]:
        if not {"best", "last"} & set(keep):
            raise ValueError("keep must name `best` or `last`, which becomes the output")
        return keep


class Objectives(Section):
    """Weights of the pre-training losses; 0 turns one off."""

    vtc: float = Field(1.0, ge=0)
    vtm: float = Field(1.0, ge=0)
    mlm: float = Field(1.0, ge=0)
    pem: float = Field(1.0, ge=0)


class PEM(Section):
    """Prompting entity modeling."""

    ensemble: bool = Field(True, description="Average each entity's prompt over all templates; false: the first alone.")
    ignore: Literal["max_probability", "argmax_zero"] = Field(
        "max_probability",
        description="Which crops carry no label: under the threshold (paper), or of entity 0 (released code).",
    )
    threshold: float = Field(0.2, ge=0, le=1)
    crop_area: tuple[float, float] = (0.3, 0.5)
    crop_aspect: tuple[float, float] = (0.3, 1 / 0.3)


class CorpusTraining(Training):
    """A training on caption corpora."""

    corpora: list[str] = Field(description="Names under `corpora`.")
    mix: Literal["equal", "size"] = Field("equal", description="How a step's corpus is drawn: equal odds, or by size.")
    augment_images: bool = Field(
        True, description="Crop, flip and RandAugment images; false where captions tell left from right."
    )


class Pretraining(CorpusTraining):
    """The pre-training of the video-language model."""

    objectives: Objectives = Objectives()
    mlm_probability: float = Field(0.15, gt=0, lt=1)
    pem: PEM = PEM()


class Init(Section):
    """Where trainings start: the output of another stage, a checkpoint (own or official), or a file of recipes/init."""

    prompter: str
    teacher: str = Field(description="The prompter that pre-training asks.")
    pretrain: str
    finetune: str
    resize: Literal["flat_nearest", "bicubic"] = Field(
        "bicubic",
        description="How a checkpoint's position embedding meets another image_size: over the flattened patches (released "
        "code), or over both dimensions.",
    )
