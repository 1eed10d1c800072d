"""Sections of params.yaml on the trainings and on where they start."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from alpro.config.base import FilePath, Section


class RandAugment(Section):
    """RandAugment; all frames of a clip get the same operations."""

    operations: PositiveInt = 2
    magnitude: PositiveFloat = 5


class Training(Section):
    """One training. The defaults apply to all four."""

    epochs: PositiveInt
    max_steps: PositiveInt | None = Field(None, description="Stop after this many optimizer steps; null: after all epochs.")
    batch_size: PositiveInt = Field(description="Samples per process and micro-step.")
    accumulation: PositiveInt = Field(1, description="Micro-steps per optimizer step.")
    accumulate: Literal["mean", "sum"] = Field("mean", description="How the gradients of the micro-steps are combined.")
    average: Literal["items", "processes"] = Field(
        "items",
        description="Average of a loss: over all items (masked tokens, labelled crops), or over the means of the processes.",
    )
    compression: Literal["none", "fp16"] = Field(
        "none", description="Number format in which gradients are exchanged; none: fp32."
    )
    learning_rate: PositiveFloat
    weight_decay: float = Field(0.001, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: PositiveFloat = 1e-6
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Fraction of all steps in which the learning rate grows.")
    grad_clip: PositiveFloat = Field(description="Maximum norm of the gradient.")
    num_frames: PositiveInt
    max_text_tokens: PositiveInt
    validations: PositiveInt = Field(description="Number of validations, evenly spaced over the steps.")
    train_frames: Literal["random", "headtail", "uniform"] = "headtail"
    eval_frames: Literal["uniform", "uniform_floor", "headtail"] = "uniform"
    frame_candidates: PositiveInt | None = Field(
        None,
        description="Draw the frames of `train_frames` random or headtail from this many evenly spaced frames, so that "
        "`loader.cache` can keep them; null: from all frames of the clip. It affects results, with and without a cache.",
    )
    decode_size: PositiveInt | None = Field(
        None,
        description="Height and width in pixels to which frames are decoded before cropping; null: the model's image_size.",
    )
    randaugment: RandAugment | None = RandAugment()
    reshuffle: bool = Field(True, description="Shuffle again in every epoch.")
    distinct_videos: bool = Field(True, description="Never draw a video twice for one batch.")
    gradient_checkpointing: Literal["none", "exact", "official"] = Field(
        "none",
        description="Checkpointing of the vision encoder. `official` drops gradients of attention and MLP, as released.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    select_by: str = Field(description="Validation metric that selects the best checkpoint; `-name`: smaller is better.")
    keep: list[Literal["best", "last", "every"]] = Field(
        ["best"],
        min_length=1,
        description="Checkpoints to keep: the output is `best`, otherwise `last`; both adds last/; `every` adds step-*/.",
    )
    save_every_s: PositiveFloat = Field(600, description="Write the resume state at least this often.")
    log_every: PositiveInt = Field(10, description="Steps between log lines.")

    @model_validator(mode="after")
    def _check_candidates(self) -> Training:
        if self.frame_candidates is not None:
            if self.train_frames == "uniform":
                raise ValueError("frame_candidates has no effect with train_frames uniform, which draws no frames")
            if self.frame_candidates < self.num_frames:
                raise ValueError(f"frame_candidates {self.frame_candidates} must be at least num_frames {self.num_frames}")
        return self

    @field_validator("keep")
    @classmethod
    def _check_output(cls, keep: list[str]) -> list[str]:
        if not {"best", "last"} & set(keep):
            raise ValueError("keep must contain `best` or `last`, which becomes the output")
        return keep


class Objectives(Section):
    """Weights of the pre-training losses; 0 turns a loss off."""

    vtc: float = Field(1.0, ge=0)
    vtm: float = Field(1.0, ge=0)
    mlm: float = Field(1.0, ge=0)
    pem: float = Field(1.0, ge=0)


class PEM(Section):
    """Prompting entity modeling."""

    ensemble: bool = Field(
        True, description="Average the prompts of an entity over all templates; false: use the first template only."
    )
    ignore: Literal["max_probability", "argmax_zero"] = Field(
        "max_probability",
        description="Crops without a label: below the threshold (paper), or labelled as entity 0 (released code).",
    )
    threshold: float = Field(0.2, ge=0, le=1)
    crop_area: tuple[float, float] = (0.3, 0.5)
    crop_aspect: tuple[float, float] = (0.3, 1 / 0.3)


class CorpusTraining(Training):
    """A training on caption corpora."""

    corpora: list[str] = Field(description="Names of entries in `corpora`.")
    mix: Literal["equal", "size"] = Field(
        "equal", description="Probability of a corpus in each step: equal, or proportional to its size."
    )
    augment_images: bool = Field(
        True, description="Crop, flip and RandAugment images; use false if captions distinguish left and right."
    )


class Pretraining(CorpusTraining):
    """The pre-training of the video-language model."""

    objectives: Objectives = Objectives()
    mlm_probability: float = Field(0.15, gt=0, lt=1)
    pem: PEM = PEM()


class Finetuning(Training):
    """The fine-tuning on one dataset."""

    questions_per_clip: PositiveInt = Field(
        1,
        description="qa: questions of a clip that share its frames and its encoding in a batch; `batch_size` counts questions.",
    )
    captions_per_clip: PositiveInt = Field(
        1, description="retrieval: captions of a clip that share its frames and its encoding; `batch_size` counts captions."
    )

    @property
    def texts_per_clip(self) -> int:
        """Number of texts that share a clip, at most; a dataset has either questions or captions."""
        return max(self.questions_per_clip, self.captions_per_clip)

    @model_validator(mode="after")
    def _check_texts_per_clip(self) -> Finetuning:
        name = "questions_per_clip" if self.questions_per_clip > 1 else "captions_per_clip"
        if self.batch_size % self.texts_per_clip:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of {name} {self.texts_per_clip}")
        if self.captions_per_clip > 1 and not self.distinct_videos:
            raise ValueError(
                f"captions_per_clip {self.captions_per_clip} needs distinct_videos: true, or VTC takes the captions of a "
                "clip that is in the batch twice for each other's negatives"
            )
        return self


class Init(Section):
    """Starting points of the trainings: the output of a stage, an own or official checkpoint, or a file in recipes/init."""

    prompter: FilePath
    teacher: FilePath = Field(description="The prompter that labels crops in pre-training.")
    pretrain: FilePath
    finetune: FilePath
    resize: Literal["flat_nearest", "bicubic"] = Field(
        "bicubic",
        description="How position embeddings are resized for another image_size: nearest over the flattened patches (released "
        "code), or bicubic in two dimensions.",
    )
