"""The oracle: evaluation as the released code goes about it, in a few lines. Each video is encoded again for every chunk of
captions and every question, captions again for every video, all texts padded to the limit, the last layer computed in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from alpro.data.annotations.records import Record
from alpro.data.media.read import read_frames
from alpro.models import Alpro, QuestionAnswering


def pixels(record: Record, num_frames: int, image_size: int) -> torch.Tensor:
    frames = read_frames(record.path, num_frames, image_size, "uniform")
    return torch.from_numpy(frames).permute(0, 3, 1, 2)[None]


def padded(tokenizer: Any, texts: Sequence[str], longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    batch = tokenizer(list(texts), padding="max_length", truncation=True, max_length=longest, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


@torch.inference_mode()
def retrieval_scores(
    model: Alpro, records: Sequence[Record], tokenizer: Any, num_frames: int, image_size: int, max_text_tokens: int, chunk: int
) -> np.ndarray:
    """VTM's probability of a match for every caption and video, (Q, V)."""
    model.eval()
    captions = [caption for record in records for caption in record.captions]
    columns = []
    for record in records:
        column = []
        for start in range(0, len(captions), chunk):
            ids, mask = padded(tokenizer, captions[start : start + chunk], max_text_tokens)
            video = model.encode_video(pixels(record, num_frames, image_size)).expand(len(ids), -1, -1)
            fused = model.fuse(model.encode_text(ids, mask), mask, video)
            column.append(model.itm_head(fused[:, 0]).softmax(-1)[:, 1])
        columns.append(torch.cat(column))
    return torch.stack(columns, 1).numpy()


@torch.inference_mode()
def answer_probabilities(
    model: QuestionAnswering, records: Sequence[Record], tokenizer: Any, num_frames: int, image_size: int, max_text_tokens: int
) -> dict[int, np.ndarray]:
    """Probabilities of the answers for each question, one question at a time."""
    model.eval()
    found = {}
    for record in records:
        for question in record.questions:
            ids, mask = padded(tokenizer, [question.text], max_text_tokens)
            video = model.encode_video(pixels(record, num_frames, image_size))
            fused = model.fuse(model.encode_text(ids, mask), mask, video)
            found[question.id] = model.classifier(fused[:, 0]).softmax(-1)[0].numpy()
    return found
