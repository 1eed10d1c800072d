"""Oracle of the evaluation: the released code's naive loops.

Each video is encoded again for every chunk of captions and every question, and captions again for every video.
All texts are padded to the limit, and the last layer is computed in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from alpro.data.annotations.records import Record
from alpro.data.media.read import read_frames
from alpro.evaluation.clips import Preprocessing
from alpro.models import Alpro, QuestionAnswering


def pixels(record: Record, preprocessing: Preprocessing) -> torch.Tensor:
    frames = read_frames(record.path, preprocessing.num_frames, preprocessing.image_size, "uniform")
    return torch.from_numpy(frames).permute(0, 3, 1, 2)[None]


def padded(tokenizer: Any, texts: Sequence[str], longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    batch = tokenizer(list(texts), padding="max_length", truncation=True, max_length=longest, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


@torch.inference_mode()
def retrieval_scores(
    model: Alpro, records: Sequence[Record], tokenizer: Any, preprocessing: Preprocessing, chunk: int
) -> np.ndarray:
    """Return VTM's probability of a match for every caption and video, (Q, V)."""
    model.eval()
    captions = [caption for record in records for caption in record.captions]
    columns = []
    for record in records:
        column = []
        for start in range(0, len(captions), chunk):
            ids, mask = padded(tokenizer, captions[start : start + chunk], preprocessing.max_text_tokens)
            video = model.encode_video(pixels(record, preprocessing)).expand(len(ids), -1, -1)
            fused = model.fuse(model.encode_text(ids, mask), mask, video)
            column.append(model.itm_head(fused[:, 0]).softmax(-1)[:, 1])
        columns.append(torch.cat(column))
    return torch.stack(columns, 1).numpy()


@torch.inference_mode()
def answer_probabilities(
    model: QuestionAnswering, records: Sequence[Record], tokenizer: Any, preprocessing: Preprocessing
) -> dict[int, np.ndarray]:
    """Return the probabilities of the answers for each question, one question at a time."""
    model.eval()
    probabilities = {}
    for record in records:
        for question in record.questions:
            ids, mask = padded(tokenizer, [question.text], preprocessing.max_text_tokens)
            video = model.encode_video(pixels(record, preprocessing))
            fused = model.fuse(model.encode_text(ids, mask), mask, video)
            probabilities[question.id] = model.classifier(fused[:, 0]).softmax(-1)[0].numpy()
    return probabilities
