"""Steps: evaluation of 1,000 x 1,000 pairs and of 2,000 questions at the paper's size, in bf16, on made clips."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alpro.checks.gpu.machine import wait_for
from alpro.checks.gpu.made import made_model
from alpro.checks.gpu.speed import sizes
from alpro.checks.gpu.steps import Context, Failed, Figures
from alpro.data.annotations.records import Question, Record
from alpro.evaluation.clips import ClipReader, Preprocessing, VideoMode
from alpro.evaluation.qa import evaluate_qa
from alpro.evaluation.retrieval import evaluate_retrieval
from alpro.objectives.precision import autocast

VIDEOS, SMALL_VIDEOS = 1000, 12  # each with a caption
QUESTIONS, SMALL_QUESTIONS, PER_VIDEO = 2000, 20, 25
WORDS = (9.3, 3.5)  # mean and standard deviation of a caption's words (MSRVTT)
TOLERANCE = 0.02  # of a probability in bf16, scored alone and in a batch


def retrieval(context: Context) -> Figures:
    """Score every caption against every video; some pairs are scored again alone."""
    kind, config = sizes("retrieval", context.small)
    videos = SMALL_VIDEOS if context.small else VIDEOS
    model = made_model("retrieval", kind, config).to(context.device)
    texts = _sentences(videos, kind.tokens)
    records = [Record(str(n), Path(str(n)), captions=(texts[n],)) for n in range(videos)]
    preprocessing = _MadeClips(kind.frames, config.image_size, kind.tokens, precision="bf16")
    words, began_s = _Lengths(config.vocab_size), time.perf_counter()
    result = evaluate_retrieval(model, records, words, preprocessing, batch_pairs=512)
    wait_for(context.device)
    seconds = time.perf_counter() - began_s
    figures: Figures = {"pairs": result.scores.size, "s": round(seconds, 2), "pairs/s": round(result.scores.size / seconds)}
    error = max(_alone(model, preprocessing, words, texts[n], n, context.device, result.scores[n, n]) for n in (0, videos - 1))
    figures |= {"differ from pairs alone by": float(f"{error:.1e}"), "R@1": result.metrics()["text2video"]["r1"]}
    if not error <= TOLERANCE:
        raise Failed("scores of a batch differ from those of the same pairs alone", figures)
    return figures


def questions(context: Context) -> Figures:
    """Answer questions, 25 about each video."""
    kind, config = sizes("qa", context.small)
    number = SMALL_QUESTIONS if context.small else QUESTIONS
    model = made_model("qa", kind, config).to(context.device)
    asked = [Question(n, text, "0", "what") for n, text in enumerate(_sentences(number, kind.tokens))]
    starts = range(0, number, PER_VIDEO)
    records = [
        Record(str(n), Path(str(n)), questions=tuple(asked[start : start + PER_VIDEO])) for n, start in enumerate(starts)
    ]
    answers = {str(label): label for label in range(kind.head["num_answers"])}
    preprocessing = _MadeClips(kind.frames, config.image_size, kind.tokens, precision="bf16")
    began_s = time.perf_counter()
    result = evaluate_qa(model, records, _Lengths(config.vocab_size), answers, preprocessing)
    wait_for(context.device)
    seconds = time.perf_counter() - began_s
    figures: Figures = {"questions": number, "s": round(seconds, 2), "questions/s": round(number / seconds, 1)}
    if [prediction.id for prediction in result.predictions] != list(range(number)):
        raise Failed("not every question was answered once, in order", figures)
    return figures | {"accuracy": result.metrics()["overall_acc"]}


def _alone(
    model: Any, preprocessing: _MadeClips, words: _Lengths, text: str, n: int, device: torch.device, score: float
) -> float:
    """Return the difference of a pair's probability from the one computed without a batch."""
    (clip,) = preprocessing.reader().clips([Record(str(n), Path(str(n)))])
    ids = torch.tensor(words([text])["input_ids"], device=device)
    with torch.no_grad(), autocast(device, preprocessing.precision):
        model.eval()
        mask = torch.ones_like(ids)
        video = model.encode_video(clip[None].to(device)).float()
        logits = model.match(model.encode_text(ids, mask).float(), mask, video)
    return abs(float(logits.float().softmax(1)[0, 1]) - float(score))


def _sentences(number: int, tokens: int) -> list[str]:
    """Return texts with the lengths of captions; their words don't matter."""
    lengths = np.random.default_rng(0).normal(*WORDS, number).round().clip(3, tokens - 2).astype(int)
    return [" ".join("word"[: 1 + n % 4] for n in range(length)) for length in lengths]


class _Lengths:
    """A tokenizer with one token for each word; cost depends only on the number of tokens."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        ids = [[1, *(5 + (31 * n + len(word)) % (self.vocabulary - 5) for n, word in enumerate(t.split())), 2] for t in texts]
        return {"input_ids": ids}


@dataclass(frozen=True, slots=True)
class _MadeClips(Preprocessing):
    """Preprocessing whose clips are noise drawn from the record's number: nothing is decoded."""

    def reader(self, mode: VideoMode = "full") -> ClipReader:
        return _Noise(self.num_frames, self.frames_strategy, self.image_size, mode)


class _Noise(ClipReader):
    def clips(self, records: Sequence[Record]) -> Iterator[Tensor]:
        shape = (self.num_frames, 3, self.image_size, self.image_size)
        for record in records:
            g = torch.Generator().manual_seed(int(record.id))
            yield torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)
