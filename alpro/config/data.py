"""alpro/config/data.py: NEW MODULE."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from alpro.config.base import Section

# --- data -------------------------------------------------------------------------------------------------


class Corpus(Section):
    """Captions for the prompter's and the pre-training."""

    media: Literal["video", "image"]
    train: str = Field(description="Annotation file: .csv, .tsv, .parquet, .jsonl or .json.")
    val: str | None = None
    root: str = Field(description="Folder of the videos or images that the file names.")


class Dataset(Section):
    """A down-stream data set, an official one or one's own; its name is the name of the task."""

    task: Literal["retrieval", "qa"]
    annotations: str = Field(
        description="Folder with train/val/test.jsonl and, for qa, train_ans2label.json; or one table with a column `split`."
    )
    videos: str = Field(description="Folder of the videos; may be another set's (MSRVTT-QA uses msrvtt_ret's).")


class Convert(Section):
    """Copies of a folder of videos that decode fast (`alpro data convert`); `datasets` or `corpora` may name them."""

    source: str = Field(description="Folder of the originals, which are only read.")
    output: str = Field(description="Folder of the copies.")
    every: PositiveInt | None = Field(None, description="Keep every so manieth frame; WebVid at 10 % of its rate: 10.")
    fps: PositiveFloat | None = Field(None, description="Keep so many frames a second.")
    short_side: PositiveInt | None = Field(None, description="Pixels of the shorter side; smaller videos stay as they are.")
    min_frames: PositiveInt = Field(
        16, description="At least so many frames, where there are: what a training reads of a clip."
    )
    gop: PositiveInt = Field(8, description="Frames from one key frame to the next.")
    crf: int = Field(23, ge=0, le=51, description="x264's quality: lower is better and larger.")

    @model_validator(mode="after")
    def _one_rate(self) -> Convert:
        if self.every and self.fps:
            raise ValueError("give `every` or `fps`, not both")
        return self


class Sample(Section):
    """What `alpro data sample` makes."""

    seed: int = 0
    frame_size: PositiveInt = Field(96, description="Side of the made videos, in pixels.")
    pretrain_videos: PositiveInt = 800
    pretrain_images: PositiveInt = 300
    train_videos: PositiveInt = Field(500, description="Of each down-stream video collection.")
    val_videos: PositiveInt = 60
    test_videos: PositiveInt = 120


class Text(Section):
    """The tokenizer."""

    tokenizer: str = Field(description="Folder with a WordPiece vocabulary (vocab.txt).")


class Entities(Section):
    """The entity list of PEM."""

    source: str | None = Field(None, description="A `unigrams.txt` to take as it is; null: count the captions' nouns.")
    tagger: str | None = Field(None, description="A spaCy pipeline, name or folder, that finds the nouns; null: our own rule.")
    number: NonNegativeInt = Field(1000, description="How many of the most frequent nouns are entities; 0: no PEM.")
