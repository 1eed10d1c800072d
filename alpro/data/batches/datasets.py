"""Datasets of clips with one or several texts, and the collation of their samples to batches.

All randomness is seeded by (seed, epoch, sample), so a sample is the same in every process and worker.
Letters: B texts, C clips, T frames, L text tokens, H and W pixels.
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

from alpro.config import PEM
from alpro.data.annotations.records import Record
from alpro.data.batches import augment
from alpro.data.batches.batch import Batch
from alpro.data.batches.clip_frames import View, load_image_frame, load_video_frames
from alpro.data.batches.frame_cache import FrameCache
from alpro.data.batches.masking import crop_box, mask_tokens
from alpro.data.batches.seeds import numpy_rng, python_rng, torch_rng
from alpro.errors import DataError
from alpro.objectives.mlm import IGNORED, masked_positions

Kind = Literal["corpus", "retrieval", "qa"]
Key = tuple[int, int]  # (epoch, row): the index into a dataset


@dataclass(frozen=True, slots=True)
class VideoTextSample:
    """One clip with one text, or with several that share its frames."""

    ids: tuple[str, ...]  # corpus/video#text, of each text
    corpus: str
    media: str
    epoch: int
    frames: Tensor  # (T, 3, H, W) uint8
    texts: tuple[str, ...]
    labels: tuple[int, ...] | None = None  # classes of the answers


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A sample that could not be read, with the reason."""

    ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class _Text:
    """One text of a record, with its number in the sample's id."""

    number: int
    text: str
    label: int | None = None


class ClipDataset(torch.utils.data.Dataset[Any]):
    """Map-style dataset of one corpus or dataset, indexed by (epoch, row).

    The samples depend on `kind`:

    - corpus: each record with one of its captions, drawn again in each epoch;
    - retrieval: each record with each of its captions;
    - qa: each record with each of its questions. The label is the answer's class in `answers`, or -100 if it has none.

    With `texts_per_clip` over 1, a row has up to that many captions or questions of a record. Each epoch divides them anew, in
    an order drawn from (seed, epoch, record), into as few rows as possible whose sizes differ by at most one: 26 questions
    at 4 a row give 5 rows of 4 and 2 of 3. The texts of a row share their frames and augmentation, which are those that
    the row's first text would have alone.

    Records without text give no sample. Raises DataError if there is no sample at all.
    """

    def __init__(
        self,
        name: str,
        records: Sequence[Record],
        kind: Kind,
        view: View,
        seed: int,
        answers: Mapping[str, int] | None = None,
        texts_per_clip: int = 1,
        cache: FrameCache | None = None,
    ) -> None:
        if kind == "qa" and answers is None:
            raise ValueError("questions need the answer list")
        self.name, self.kind, self.view, self.seed, self.texts_per_clip = name, kind, view, seed, texts_per_clip
        self.answers, self.cache = dict(answers or {}), cache
        self.records = PackedRecords(records)
        counts = np.array([len(r.questions if kind == "qa" else r.captions) for r in records], dtype=np.int64)
        if kind == "corpus":
            counts = np.minimum(counts, 1)
        self.texts = int(counts.sum())  # of an epoch
        rows = -(-counts // texts_per_clip)  # of each record
        self._record = np.repeat(np.arange(len(rows)), rows)
        self._part = np.arange(len(self._record)) - np.repeat(np.cumsum(rows) - rows, rows)  # number of the row in its record
        if not len(self._record):
            raise DataError(f"{name}: no record has a {'question' if kind == 'qa' else 'caption'}")

    def __len__(self) -> int:
        return len(self._record)

    @cached_property
    def groups(self) -> np.ndarray:
        """(len,) number of each sample's video; samples of the same video have equal numbers."""
        ids: dict[str, int] = {}
        keys = np.array([ids.setdefault(record.id, len(ids)) for record in self.records], dtype=np.int64)
        return keys[self._record]

    def path(self, row: int) -> Path:
        """Return the file of a row."""
        return self.records[int(self._record[row])].path

    def __getitem__(self, key: Key) -> VideoTextSample | Unreadable:
        epoch, row = key
        record: Record = self.records[int(self._record[row])]
        texts = self._choose_texts(record, int(self._part[row]), epoch)
        ids = tuple(f"{self.name}/{record.id}#{text.number}" for text in texts)
        try:
            frames = self._load_frames(record, ids[0], epoch)
        except DataError as error:
            return Unreadable(ids, str(error))
        labels = tuple(text.label for text in texts if text.label is not None)
        return VideoTextSample(
            ids,
            self.name,
            record.media,
            epoch,
            frames,
            tuple(text.text for text in texts),
            labels if self.kind == "qa" else None,
        )

    def _choose_texts(self, record: Record, part: int, epoch: int) -> list[_Text]:
        """Return the texts of a row, the `part`-th of its record."""
        if self.kind == "corpus" and len(record.captions) > 1:
            drawn = python_rng(self.seed, epoch, self.name, record.id, "caption").randrange(len(record.captions))
            return [_Text(drawn, record.captions[drawn])]
        if self.kind == "qa":
            texts = [_Text(q.id, q.text, self.answers.get(q.answer, IGNORED)) for q in record.questions]
        else:
            texts = [_Text(number, caption) for number, caption in enumerate(record.captions)]
        if self.texts_per_clip == 1:
            return texts[part : part + 1]
        order = numpy_rng(self.seed, epoch, self.name, record.id, "texts").permutation(len(texts))
        parts = -(-len(texts) // self.texts_per_clip)
        return [texts[position] for position in np.array_split(order, parts)[part]]

    def _load_frames(self, record: Record, name: str, epoch: int) -> Tensor:
        view = self.view
        # Seeding takes longer than reading a small clip from the cache.
        rng = numpy_rng(self.seed, epoch, name, "augment") if view.augments(record.media) else None
        if record.media == "image":
            return load_image_frame(record, view, rng, self.cache).expand(view.num_frames, -1, -1, -1)
        frames_rng = python_rng(self.seed, epoch, name, "frames")
        frames = load_video_frames(record, view, frames_rng, rng, self.cache)
        if rng and view.randaugment:
            frames = augment.randaugment_video(frames, view.randaugment.operations, view.randaugment.magnitude, rng)
        return frames


class PackedRecords(Sequence[Record]):
    """Records pickled into one block of bytes.

    Millions of Python objects would be copied into each worker page by page, because every access writes a reference
    count. A block of bytes stays shared.
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
    """A batch and the unreadable samples that are missing from it."""

    batch: Batch | None  # None if no sample could be read
    unreadable: list[Unreadable]

    def pin_memory(self) -> Collated:
        """Return a copy in page-locked memory, from which transfers to a GPU run asynchronously."""
        if self.batch is None:
            return self
        values = {field.name: getattr(self.batch, field.name) for field in fields(Batch)}
        pinned: dict[str, Any] = {name: value.pin_memory() for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, batch=replace(self.batch, **pinned))


class Collator:
    """Collates samples of one corpus to a Batch: token ids padded to the longest text, masked words and crop boxes.

    The length is rounded up to a multiple of `pad_to`. Random draws are seeded per sample by (seed, epoch, sample id), so they
    do not depend on the rest of the batch.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_text_tokens: int,
        seed: int,
        mlm_probability: float | None = None,
        crop: PEM | None = None,
        patch_size: int = 16,
        pad_to: int = 1,
    ) -> None:
        self.tokenizer, self.max_text_tokens, self.seed, self.pad_to = tokenizer, max_text_tokens, seed, pad_to
        self.mlm_probability, self.crop, self.patch_size = mlm_probability, crop, patch_size
        self._special = torch.tensor(sorted(tokenizer.all_special_ids))

    def __call__(self, items: Sequence[VideoTextSample | Unreadable]) -> Collated:
        unreadable = [item for item in items if isinstance(item, Unreadable)]
        samples = [item for item in items if isinstance(item, VideoTextSample)]
        return Collated(self.batch(samples) if samples else None, unreadable)

    def batch(self, samples: Sequence[VideoTextSample]) -> Batch:
        """Collate at least one sample; all are of the same corpus."""
        ids, mask = self.tokenize([text for sample in samples for text in sample.texts])
        pixels = torch.stack([sample.frames for sample in samples])
        sizes = torch.tensor([len(sample.texts) for sample in samples])
        labels = [label for sample in samples for label in sample.labels or ()]
        return Batch(
            corpus=samples[0].corpus,
            ids=[name for sample in samples for name in sample.ids],
            pixels=pixels,
            input_ids=ids,
            attention_mask=mask,
            media=samples[0].media,
            **self._mask_words(samples, ids, mask),
            crop_boxes=self._crop_boxes(samples, pixels.shape[-1]) if self.crop else None,
            labels=None if samples[0].labels is None else torch.tensor(labels),
            clips=None if (sizes == 1).all() else torch.arange(len(samples)).repeat_interleave(sizes),
        )

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token ids and attention mask, (B, L) int64 each; L is the length of the longest text, rounded up."""
        rows = self.tokenizer(list(texts), truncation=True, max_length=self.max_text_tokens)["input_ids"]
        longest = -(-max(map(len, rows)) // self.pad_to) * self.pad_to
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return ids, mask

    def _mask_words(self, samples: Sequence[VideoTextSample], ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        if not self.mlm_probability:
            return {}
        masked, labels = ids.clone(), torch.full_like(ids, IGNORED)
        named = ((sample.epoch, name) for sample in samples for name in sample.ids)
        for i, (epoch, name) in enumerate(named):
            length = int(mask[i].sum())  # padding gets no random draws: its length depends on the rest of the batch
            row = ids[i : i + 1, :length]
            masked[i, :length], labels[i, :length] = mask_tokens(
                row,
                torch.isin(row, self._special),
                self.tokenizer.mask_token_id,
                len(self.tokenizer),
                self.mlm_probability,
                torch_rng(self.seed, epoch, name, "mlm"),
            )
        # found here, because on a GPU the number of positions would have to be waited for
        return {"mlm_input_ids": masked, "mlm_labels": labels, "mlm_positions": torch.stack(masked_positions(labels))}

    def _crop_boxes(self, samples: Sequence[VideoTextSample], size: int) -> Tensor:
        assert self.crop
        rngs = (numpy_rng(self.seed, sample.epoch, sample.ids[0], "crop") for sample in samples)
        area, aspect = self.crop.crop_area, self.crop.crop_aspect
        return torch.tensor([crop_box(rng, size, self.patch_size, area, aspect) for rng in rngs])
