"""Sections of params.yaml on data: corpora, datasets, copies, the sample, the tokenizer and the entities."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from alpro.config.base import Location, Section


class Corpus(Section):
    """A caption corpus for the prompter and for pre-training."""

    media: Literal["video", "image"]
    train: Location = Field(description="Annotation file: .csv, .tsv, .parquet, .jsonl or .json.")
    val: Location | None = None
    root: Location = Field(description="Folder with the videos or images that the annotation file names.")


class Dataset(Section):
    """A downstream dataset, official or your own. Its name is also the name of the task."""

    task: Literal["retrieval", "qa"]
    annotations: Location = Field(
        description="Folder with train/val/test.jsonl and, for qa, train_ans2label.json; or one table with a column `split`."
    )
    videos: Location = Field(
        description="Folder with the videos; it may belong to another dataset (MSRVTT-QA uses the videos of msrvtt_ret)."
    )


class Convert(Section):
    """Copies of videos that decode faster (`alpro data convert`); `datasets` and `corpora` may refer to them."""

    source: Location = Field(description="Folder with the originals, which are never changed.")
    output: Location = Field(description="Folder for the copies.")
    every: PositiveInt | None = Field(None, description="Keep every N-th frame; 10 gives WebVid at 10 % of its rate.")
    fps: PositiveFloat | None = Field(None, description="Keep this many frames per second.")
    short_side: PositiveInt | None = Field(
        None, description="Length of the shorter side in pixels; smaller videos are not enlarged."
    )
    min_frames: PositiveInt = Field(16, description="Keep at least this many frames, as many as a training reads of a clip.")
    gop: PositiveInt = Field(8, description="Frames from one key frame to the next.")
    crf: int = Field(23, ge=0, le=51, description="Quality of x264; lower values give better quality and larger files.")

    @model_validator(mode="after")
    def _one_rate(self) -> Convert:
        if self.every and self.fps:
            raise ValueError("give `every` or `fps`, not both")
        return self


class Sample(Section):
    """The sample data that `alpro data sample` makes."""

    seed: int = 0
    frame_size: PositiveInt = Field(96, description="Height and width of the videos, in pixels.")
    pretrain_videos: PositiveInt = 800
    pretrain_images: PositiveInt = 300
    train_videos: PositiveInt = Field(500, description="Training videos of each downstream video collection.")
    val_videos: PositiveInt = 60
    test_videos: PositiveInt = 120


class Text(Section):
    """The tokenizer of all texts."""

    tokenizer: Location = Field(description="Folder with a WordPiece vocabulary (vocab.txt).")


class Entities(Section):
    """The entity list of PEM."""

    source: Location | None = Field(
        None, description="A `unigrams.txt` to use as it is; null: count the nouns of the captions."
    )
    tagger: Location | None = Field(
        None, description="Name or folder of a spaCy pipeline that finds the nouns; null: a built-in rule."
    )
    number: NonNegativeInt = Field(1000, description="Number of entities, the most frequent nouns; 0 turns PEM off.")
