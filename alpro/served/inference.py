"""Batched inference: questions and texts on clips that are encoded already. The numbers are those of `alpro.serving`.

They differ by rounding only, because several clips go through the model together. Letters: B pairs of a batch, T frames,
1+N tokens of a clip, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from alpro.data.annotations.records import Record
from alpro.errors import CheckpointError
from alpro.evaluation.clips import ClipReader
from alpro.evaluation.qa import TOP
from alpro.evaluation.sharing import evaluating
from alpro.evaluation.texts import padded_ids, token_ids
from alpro.serving import Answer, Match
from alpro.serving.service import Service

Pair = tuple[Tensor, str]  # tokens of a clip (1, 1+N, D) and a text


def read_frames(service: Service, video: Path) -> Tensor:
    """Read the frames that the model sees, (T, 3, S, S) uint8. Raises DataError if the file can't be read."""
    reader = ClipReader(service.model.num_frames, service.frames, service.model.config.image_size, workers=0)
    return next(reader.clips([Record(str(video), video)]))


def encode_clips(service: Service, frames: Sequence[Tensor]) -> list[Tensor]:
    """Encode clips (T, 3, S, S) together; return the tokens (1, 1+N, D) of each."""
    with evaluating(service.model) as device:
        tokens = service.model.encode_video(torch.stack(list(frames)).to(device)).float()
    return [row.clone() for row in tokens.split(1)]  # a copy: a view would keep the whole batch in memory


def answer_pairs(service: Service, pairs: Sequence[Pair]) -> list[list[Answer]]:
    """Return the most likely answers to each question, most likely first. Raises CheckpointError for a broken model."""
    model = service.model
    with evaluating(model):
        text, mask, video = _inputs(service, pairs)
        probabilities = model.answer(text, mask, video).float().softmax(-1)  # type: ignore[operator]
        likeliest, labels = probabilities.sort(dim=-1, descending=True, stable=True)
    likeliest = _finite(likeliest)[:, :TOP]
    names = _class_names(service.answers or {})
    return [
        [Answer(names.get(label, f"class {label}"), value) for label, value in zip(row, values, strict=True)]
        for row, values in zip(labels[:, :TOP].tolist(), likeliest.tolist(), strict=True)
    ]


def match_pairs(service: Service, pairs: Sequence[Pair]) -> list[Match]:
    """Return VTM's probability and VTC's cosine of each pair. Raises CheckpointError for a broken model."""
    model = service.model
    with evaluating(model):
        text, mask, video = _inputs(service, pairs)
        similarity = (model.text_feature(text) * model.video_feature(video)).sum(-1)
        probability = model.match(text, mask, video).float().softmax(-1)[:, 1]
    scores = _finite(torch.stack([probability, similarity], 1)).tolist()
    return [Match(text, score, cosine) for (_, text), (score, cosine) in zip(pairs, scores, strict=True)]


def _inputs(service: Service, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """Return encoded texts (B, L, D), their mask (B, L) and clips (B, 1+N, D). Equal texts are encoded once."""
    texts = list(dict.fromkeys(text for _, text in pairs))
    rows = {text: row for row, text in enumerate(texts)}
    device = pairs[0][0].device
    ids, mask = padded_ids(token_ids(service.tokenizer, texts, service.max_text_tokens), device)
    chosen = torch.tensor([rows[text] for _, text in pairs], device=device)
    return service.model.encode_text(ids, mask)[chosen], mask[chosen], torch.cat([tokens for tokens, _ in pairs])


def _class_names(answers: Mapping[str, int]) -> dict[int, str]:
    return {label: answer for answer, label in answers.items()}


def _finite(scores: Tensor) -> Tensor:
    if not torch.isfinite(scores).all():
        raise CheckpointError("the model's scores are not finite: its weights are damaged; check the checkpoint")
    return scores.cpu()
