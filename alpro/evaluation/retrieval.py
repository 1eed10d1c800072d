"""Text-video retrieval at the least cost that is exact (paper, section 4.2).

Each video and each caption is encoded once; the multimodal encoder scores (caption, video) pairs in large batches, with
texts at their real length and its last layer for [CLS] alone.

B pairs of a batch, T frames, L text tokens, N patches, D width; Q captions, V videos.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alpro.data.annotations.records import Record
from alpro.data.media.frames import Strategy
from alpro.errors import ConfigError, DataError
from alpro.evaluation import metrics
from alpro.evaluation.clips import Look, Viewer
from alpro.evaluation.features import FeatureStore, VideoEncoder
from alpro.evaluation.resume import Arrays, Phase, Workplace
from alpro.evaluation.sharing import Progress, evaluating, shared
from alpro.evaluation.texts import CHUNK, TextBank, by_length, encoded, token_ids
from alpro.models import Alpro

VIDEOS_PER_UNIT = 4  # encoded and scored together; part of the numbers, so it depends on nothing

Scores = NDArray[np.float32]
Rerank = Literal["both", "text2video"]


@dataclass(frozen=True)
class RetrievalResult:
    """All that a retrieval evaluation found; the same on every rank.

    scores (Q, V): VTM's probability of a match, NaN where re-ranking left a pair out; similarities (Q, V): VTC's cosine.
    """

    video_ids: list[str]
    text_ids: list[str]
    texts: list[str]
    owner: list[int]  # the video of each caption
    scores: Scores
    similarities: Scores
    rerank: int | None = None
    round_scores: int | None = None
    _best: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = field(default=None, repr=False)

    @cached_property
    def text_order(self) -> NDArray[np.float64]:
        """What ranks the videos for a caption (Q, V): the score; under re-ranking a pair that is not among the K best of
        VTC stands below all that are, in VTC's order.
        """
        return self._order(0)

    @cached_property
    def video_order(self) -> NDArray[np.float64]:
        """What ranks the captions for a video (V, Q)."""
        return self._order(1).T

    def _order(self, direction: int) -> NDArray[np.float64]:
        scores = self.scores.astype(np.float64)
        if self.round_scores is not None:
            return np.round(scores, self.round_scores)
        if self._best is None:
            return scores
        return np.where(self._best[direction], scores, self.similarities.astype(np.float64) - 3)  # cosines reach 1

    @cached_property
    def described_videos(self) -> list[int]:
        """Videos that have a caption: the queries of video to text."""
        return sorted(set(self.owner))

    @cached_property
    def text_ranks(self) -> metrics.Ranks:
        """Where each caption's video stands, (Q,)."""
        return metrics.rank_queries(self.text_order, [[video] for video in self.owner])

    @cached_property
    def video_ranks(self) -> metrics.Ranks:
        """Where the best-placed caption of each described video stands."""
        captions = metrics.retrieval_truth(self.owner, len(self.video_ids))[1]
        return metrics.rank_queries(self.video_order[self.described_videos], [captions[v] for v in self.described_videos])

    @cached_property
    def ranks(self) -> tuple[metrics.Ints, metrics.Ints]:
        """The ranks that the metrics count, text to video and video to text: with `round_scores` the released code's."""
        if self.round_scores is not None:
            return metrics.official_ranks(self.scores, self.owner, self.round_scores)
        return self.text_ranks.stable, self.video_ranks.stable

    def reranked(self, count: int | None, which: Rerank = "both") -> RetrievalResult:
        """What re-ranking the `count` best of VTC makes of these scores, without computing any again; None: VTC alone."""
        best = _best_pairs(self.similarities, count or 0, which)
        return replace(self, rerank=count, round_scores=None, _best=best)

    def metrics(self) -> dict[str, dict[str, float]]:
        """{"text2video": {r1, r5, r10, medianR, meanR}, "video2text": {...}}, recalls in percent."""
        text, video = self.ranks
        return {"text2video": metrics.recall_metrics(text), "video2text": metrics.recall_metrics(video)}

    def flat(self) -> dict[str, float]:
        """The same under one level of names, for training logs: r1 ... meanR, and v2t_r1 ... v2t_meanR."""
        found = self.metrics()
        return found["text2video"] | {f"v2t_{name}": value for name, value in found["video2text"].items()}

    def ties(self) -> dict[str, dict[str, dict[str, float]]]:
        """What ties could make of the metrics, by direction."""
        return {"text2video": metrics.tie_metrics(self.text_ranks), "video2text": metrics.tie_metrics(self.video_ranks)}

    def best_videos(self, text: int, count: int = 5) -> list[tuple[str, float]]:
        """The first videos for a caption, with what ranked them."""
        row = self.text_order[text]
        return [(self.video_ids[v], float(row[v])) for v in np.argsort(-row, kind="stable")[:count]]

    def best_texts(self, video: int, count: int = 5) -> list[tuple[str, float]]:
        """The first captions for a video, by their ids, with what ranked them."""
        row = self.video_order[video]
        return [(self.text_ids[t], float(row[t])) for t in np.argsort(-row, kind="stable")[:count]]


def evaluate_retrieval(
    model: Alpro,
    records: Sequence[Record],
    tokenizer: Any,
    *,
    num_frames: int,
    image_size: int,
    max_text_tokens: int,
    frames_strategy: Strategy = "uniform",
    batch_pairs: int = 64,
    rerank: int | None = None,
    rerank_for: Rerank = "both",
    round_scores: int | None = None,
    look: Look = "full",
    precision: str = "fp32",
    workers: int = 1,
    decode_size: int | None = None,
    progress: Progress | None = None,
    place: Workplace | None = None,
) -> RetrievalResult:
    """Score every caption of the records against every video; all ranks call it and get the same result.

    `rerank` K: VTC ranks, and VTM scores only the K best videos of each caption and, unless `rerank_for` is text2video, the
    K best captions of each video (VTC alone ranks these otherwise).
    `round_scores`: the released code's ranking (rounded, unstable, one caption a video). `look`: what the model is shown.
    `workers`: threads that read ahead. `decode_size`: as in training, None for image_size. `place`: where finished work is
    kept for a resumption; without one, encoded videos stay in memory, or go to a temporary folder when they don't fit.
    Raises DataError for an unreadable video and for scores that are not finite, ConfigError for contradictory options.
    """
    if rerank is not None and round_scores is not None:
        raise ConfigError("rerank and round_scores exclude each other: the released code scores all pairs")
    texts = [(f"{record.id}#{n}", text, v) for v, record in enumerate(records) for n, text in enumerate(record.captions)]
    if not texts:
        raise DataError("no captions: nothing to retrieve with")
    viewer = Viewer(num_frames, frames_strategy, image_size, look, workers, decode_size)
    shown = list(records[:1]) if viewer.same_for_all else list(records)
    with evaluating(model, precision) as device, ExitStack() as temporary:
        ids = token_ids(tokenizer, [t[1] for t in texts], max_text_tokens)
        phase: dict[str, Phase | None] = {"texts": None, "scores": None}
        encoder = VideoEncoder(model, viewer, shown, device)
        if place is not None:
            folder, encoder.store = place.open(
                model, viewer, shown, precision, device, ids=ids, rerank=rerank, rerank_for=rerank_for, batch_pairs=batch_pairs,
                task="retrieval",
            )  # fmt: skip
            phase = {name: Phase(folder / name) for name in phase}
        elif not encoder.fit_in_memory():
            encoder.store = FeatureStore(temporary.enter_context(tempfile.TemporaryDirectory(prefix="alpro-features-")))
        bank, text_features = _encode_texts(model, ids, device, phase["texts"])
        units = [range(start, min(start + VIDEOS_PER_UNIT, len(shown))) for start in range(0, len(shown), VIDEOS_PER_UNIT)]
        tokens: dict[int, Tensor] = {}  # of this rank's units (videos, 1+N, D), unless a store has them

        def encode(unit: int, videos: Tensor) -> Scores:
            if encoder.store is None:
                tokens[unit] = videos
            return model.video_feature(videos).cpu().numpy()

        sizes = [float(len(unit)) for unit in units]
        halves = _Halves(progress)
        video_features = np.concatenate(shared(sizes, encode, encoder.units(units), halves.first))
        similarities = text_features @ video_features.T
        best = None if rerank is None else _best_pairs(similarities, rerank, rerank_for)
        wanted = np.ones(similarities.shape, bool) if best is None else best[0] | best[1]

        def score(unit: int, videos: Tensor) -> Arrays:
            return (_score_pairs(model, bank, videos, wanted[:, list(units[unit])], batch_pairs),)

        if encoder.store is None:  # each unit is scored where it was encoded
            found = shared(sizes, lambda unit: score(unit, tokens.pop(unit)), progress=halves.second)
        else:
            pairs = [float(1 + wanted[:, list(unit)].sum()) for unit in units]
            found = shared(pairs, score, encoder.units(units), halves.second, phase["scores"])
        scores = np.concatenate([part for (part,) in found], axis=1)
    if not np.isfinite(scores[wanted]).all():
        raise DataError("scores are not finite: the model is broken (NaN weights?)")
    if viewer.same_for_all:  # every video is the one that was scored
        shape = (len(texts), len(records))
        scores, similarities = np.broadcast_to(scores, shape).copy(), np.broadcast_to(similarities, shape).copy()
        best = None
    return RetrievalResult(
        video_ids=[record.id for record in records],
        text_ids=[t[0] for t in texts],
        texts=[t[1] for t in texts],
        owner=[t[2] for t in texts],
        scores=scores,
        similarities=similarities,
        rerank=rerank,
        round_scores=round_scores,
        _best=best,
    )


def _encode_texts(model: Alpro, ids: list[list[int]], device: torch.device, kept: Phase | None) -> tuple[TextBank, Scores]:
    """Features of all texts, and their places (Q, E) in VTC's space."""
    chunks = by_length([len(row) for row in ids], CHUNK)

    def encode(unit: int) -> Arrays:
        rows = encoded(ids, chunks[unit], model.encode_text, device)
        places = model.text_feature(torch.stack([tokens[:1] for tokens in rows]))
        return torch.cat(rows).float().cpu().numpy(), places.cpu().numpy()

    tokens: list[Scores] = [np.empty(0, np.float32)] * len(ids)
    places: list[Scores] = list(tokens)
    for chunk, (rows, features) in zip(chunks, shared([float(len(c)) for c in chunks], encode, kept=kept), strict=True):
        ends = np.cumsum([len(ids[i]) for i in chunk])
        for i, row, feature in zip(chunk, np.split(rows, ends[:-1]), features, strict=True):
            tokens[i], places[i] = row, feature
    return TextBank(tokens, device), np.stack(places)


def _best_pairs(similarities: Scores, count: int, which: Rerank = "both") -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks (Q, V) of the pairs among the `count` best of VTC: videos of each caption, and captions of each video."""

    def best(rows: Scores, count: int) -> NDArray[np.bool_]:
        mask = np.zeros(rows.shape, bool)
        np.put_along_axis(mask, np.argsort(-rows, axis=1, kind="stable")[:, :count], True, axis=1)
        return mask

    return best(similarities, count), best(similarities.T, count if which == "both" else 0).T


def _score_pairs(model: Alpro, bank: TextBank, videos: Tensor, wanted: NDArray[np.bool_], batch_pairs: int) -> Scores:
    """VTM's probability of a match for the wanted pairs (Q, videos), NaN elsewhere; videos (videos, 1+N, D)."""
    scores = np.full(wanted.shape, np.nan, np.float32)
    text_of, video_of = np.nonzero(wanted)
    lengths = bank.lengths.cpu().numpy()[text_of]
    for chunk in by_length(lengths.tolist(), batch_pairs):
        texts, mask = bank.batch(torch.from_numpy(text_of[chunk]).to(videos.device))
        match = model.match(texts, mask, videos[torch.from_numpy(video_of[chunk])]).float().softmax(-1)[:, 1]
        scores[text_of[chunk], video_of[chunk]] = match.cpu().numpy()
    return scores


class _Halves:
    """Shows encoding and scoring, which have about as many units, as one progress."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.encoded = progress, 0

    def first(self, done: int, total: int) -> None:
        self.encoded = done
        if self.progress is not None:
            self.progress(done, 2 * total)

    def second(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(self.encoded + done, self.encoded + total)
