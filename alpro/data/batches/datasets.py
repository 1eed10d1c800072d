"""Records become samples, and samples a batch: what is read of each video, with which text, seen how.

Everything drawn comes from (seed, epoch, sample), so a sample is the same whichever process or worker reads it.
Letters: B batch, T frames, L text tokens, H and W pixels.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from alpro.config import PEM, CorpusTraining, Model, RandAugment, Training
from alpro.data.annotations.records import Record
from alpro.data.batches import augment
from alpro.data.batches.batch import Batch
from alpro.data.batches.masking import crop_box, mask_tokens
from alpro.data.batches.seeds import numpy_rng, python_rng, torch_rng
from alpro.data.media.frames import Strategy
from alpro.data.media.read import read_frames, read_image
from alpro.errors import DataError

Kind = Literal["corpus", "retrieval", "qa"]
Key = tuple[int, int]  # (epoch, row): what a dataset is indexed by
_IMAGE_RANDAUGMENT = RandAugment(operations=2, magnitude=7)  # the images' of pre-training (released code)
OUTSIDE = -100  # the label of an answer that is not in the list


@dataclass(frozen=True, slots=True)
class View:
    """How the frames of a sample are read and changed."""

    num_frames: int
    size: int  # side of the frames that the model sees
    frames: Strategy
    decode_size: int | None = None  # side at which they are decoded, before the crop; None: `size`
    randaugment: RandAugment | None = None
    train: bool = True  # crops are drawn, else taken from the middle
    augment_images: bool = True  # in training; else images are squeezed to the size, as in evaluation

    @classmethod
    def training(cls, training: Training, model: Model) -> View:
        """As params.yaml says for a training."""
        return cls(
            training.num_frames,
            model.image_size,
            training.train_frames,
            training.decode_size,
            training.randaugment,
            augment_images=not isinstance(training, CorpusTraining) or training.augment_images,
        )

    @classmethod
    def evaluation(cls, training: Training, model: Model) -> View:
        """The same training's view of its validation split."""
        return cls(training.num_frames, model.image_size, training.eval_frames, training.decode_size, train=False)


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip with one text."""

    id: str  # corpus/video#text
    corpus: str
    media: str
    epoch: int
    frames: Tensor  # (T, 3, H, W) uint8
    text: str
    label: int | None = None  # the answer's class


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A sample that could not be read, and why."""

    id: str
    reason: str


class ClipDataset(torch.utils.data.Dataset[Any]):
    """The samples of one corpus or data set, map-style, indexed by (epoch, row).

    A sample is, by `kind`: a record with one of its captions, drawn anew in each epoch (corpus); a record with each of
    its captions (retrieval); a record with each of its questions (qa), whose label is the answer's class in `answers`,
    or -100 outside of it. Records without text give no sample.
    """

    def __init__(
        self,
        name: str,
        records: Sequence[Record],
        kind: Kind,
        view: View,
        seed: int,
        answers: Mapping[str, int] | None = None,
    ) -> None:
        if kind == "qa" and answers is None:
            raise ValueError("questions need the answer list")
        self.name, self.kind, self.view, self.seed = name, kind, view, seed
        self.answers = dict(answers or {})
        self.records = PackedRecords(records)
        counts = np.array([len(r.questions if kind == "qa" else r.captions) for r in records], dtype=np.int64)
        if kind == "corpus":
            counts = np.minimum(counts, 1)
        self._record = np.repeat(np.arange(len(counts)), counts)
        self._text = np.arange(len(self._record)) - np.repeat(np.cumsum(counts) - counts, counts)
        if not len(self._record):
            raise DataError(f"{name}: no record has a {'question' if kind == 'qa' else 'caption'}")

    def __len__(self) -> int:
        return len(self._record)

    @cached_property
    def groups(self) -> np.ndarray:
        """(len,) which samples show the same video: equal numbers."""
        ids: dict[str, int] = {}
        keys = np.array([ids.setdefault(record.id, len(ids)) for record in self.records], dtype=np.int64)
        return keys[self._record]

    def path(self, row: int) -> Path:
        """The file of a row."""
        return self.records[int(self._record[row])].path

    def __getitem__(self, key: Key) -> Sample | Unreadable:
        epoch, row = key
        record: Record = self.records[int(self._record[row])]
        number, text, label = self._choose(record, int(self._text[row]), epoch)
        name = f"{self.name}/{record.id}#{number}"
        try:
            frames = self._look(record, name, epoch)
        except DataError as error:
            return Unreadable(name, str(error))
        return Sample(name, self.name, record.media, epoch, frames, text, label)

    def _choose(self, record: Record, position: int, epoch: int) -> tuple[int, str, int | None]:
        """Number, text and label of a row."""
        if self.kind == "qa":
            question = record.questions[position]
            return question.id, question.text, self.answers.get(question.answer, OUTSIDE)
        if self.kind == "corpus" and len(record.captions) > 1:
            position = python_rng(self.seed, epoch, self.name, record.id, "caption").randrange(len(record.captions))
        return position, record.captions[position], None

    def _look(self, record: Record, name: str, epoch: int) -> Tensor:
        view = self.view
        rng = numpy_rng(self.seed, epoch, name, "augment")
        if record.media == "image":
            return look_at_image(record, view, rng).expand(view.num_frames, -1, -1, -1)
        drawn = python_rng(self.seed, epoch, name, "frames")
        frames = look_at_video(record, view, drawn, rng)
        if view.train and view.randaugment:
            frames = augment.randaugment_video(frames, view.randaugment.operations, view.randaugment.magnitude, rng)
        return frames


def look_at_video(record: Record, view: View, drawn: Any, rng: np.random.RandomState | None) -> Tensor:
    """The frames of a video, cropped where they were decoded larger: (T, 3, size, size) uint8. Raises DataError."""
    pixels = read_frames(record.path, view.num_frames, view.decode_size or view.size, view.frames, drawn)
    frames = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    if frames.shape[-1] > view.size:
        frames = augment.random_crop(frames, view.size, rng) if view.train and rng else augment.centre_crop(frames, view.size)
    return frames.contiguous()


def look_at_image(record: Record, view: View, rng: np.random.RandomState | None) -> Tensor:
    """An image as one frame: (1, 3, size, size) uint8. Raises DataError."""
    image = read_image(record.path)
    if not (view.train and view.augment_images and rng):
        return augment.resize_image(image, view.size)
    frame = augment.random_resized_crop(image, view.size, rng)
    if rng.uniform() < 0.5:
        frame = frame.flip(-1)
    if view.randaugment:
        frame = augment.randaugment_image(frame, _IMAGE_RANDAUGMENT.operations, _IMAGE_RANDAUGMENT.magnitude, rng)
    return frame


class PackedRecords(Sequence[Record]):
    """Records in one block of bytes.

    Millions of Python objects would be copied page by page into each reading process, because looking at an object
    writes its reference count; a block of bytes stays shared, and memory flat.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        packed = [pickle.dumps(record, protocol=5) for record in records]
        self._ends = np.cumsum([len(item) for item in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = self._ends[index - 1] if index else 0
        return pickle.loads(self._bytes[start : self._ends[index]].data)


# --- batches ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Collated:
    """A batch, and the samples that are missing from it because they could not be read."""

    batch: Batch | None  # None when none could be read
    unreadable: list[Unreadable]

    def pin_memory(self) -> Collated:
        """The same in page-locked memory, from where copies to a GPU overlap with its work."""
        if self.batch is None:
            return self
        values = {field.name: getattr(self.batch, field.name) for field in fields(Batch)}
        pinned: dict[str, Any] = {name: value.pin_memory() for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, batch=replace(self.batch, **pinned))


class Collator:
    """Samples of one corpus -> a Batch: text to tokens, padded to the batch's longest; masked words; crop boxes.

    What is drawn comes from (seed, epoch, sample id) one by one, so it does not depend on which samples share the batch.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_text_tokens: int,
        seed: int,
        mlm_probability: float | None = None,
        crop: PEM | None = None,
        patch_size: int = 16,
    ) -> None:
        self.tokenizer, self.max_text_tokens, self.seed = tokenizer, max_text_tokens, seed
        self.mlm_probability, self.crop, self.patch_size = mlm_probability, crop, patch_size
        self._special = torch.tensor(sorted(tokenizer.all_special_ids))

    def __call__(self, items: Sequence[Sample | Unreadable]) -> Collated:
        unreadable = [item for item in items if isinstance(item, Unreadable)]
        samples = [item for item in items if isinstance(item, Sample)]
        return Collated(self.batch(samples) if samples else None, unreadable)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """One Batch of at least one sample, all of one corpus."""
        ids, mask = self.tokenize([sample.text for sample in samples])
        pixels = torch.stack([sample.frames for sample in samples])
        return Batch(
            corpus=samples[0].corpus,
            ids=[sample.id for sample in samples],
            pixels=pixels,
            input_ids=ids,
            attention_mask=mask,
            media=samples[0].media,
            **self._masked(samples, ids, mask),
            crop_boxes=self._boxes(samples, pixels.shape[-1]) if self.crop else None,
            labels=None if samples[0].label is None else torch.tensor([sample.label for sample in samples]),
        )

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, (B, L) int64 each, L the longest of these texts."""
        rows = self.tokenizer(list(texts), truncation=True, max_length=self.max_text_tokens)["input_ids"]
        ids = torch.full((len(rows), max(map(len, rows))), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return ids, mask

    def _masked(self, samples: Sequence[Sample], ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        if not self.mlm_probability:
            return {}
        masked, labels = ids.clone(), torch.full_like(ids, -100)
        for i, sample in enumerate(samples):
            length = int(mask[i].sum())  # padding draws nothing: it depends on the others of the batch
            row = ids[i : i + 1, :length]
            masked[i, :length], labels[i, :length] = mask_tokens(
                row,
                torch.isin(row, self._special),
                self.tokenizer.mask_token_id,
                len(self.tokenizer),
                self.mlm_probability,
                torch_rng(self.seed, sample.epoch, sample.id, "mlm"),
            )
        return {"mlm_input_ids": masked, "mlm_labels": labels}

    def _boxes(self, samples: Sequence[Sample], size: int) -> Tensor:
        assert self.crop
        sources = (numpy_rng(self.seed, sample.epoch, sample.id, "crop") for sample in samples)
        area, aspect = self.crop.crop_area, self.crop.crop_aspect
        return torch.tensor([crop_box(rng, size, self.patch_size, area, aspect) for rng in sources])
