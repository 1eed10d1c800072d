"""Text-video retrieval at the lowest exact cost (paper, section 4.2).

Each video and each caption is encoded once. The multimodal encoder scores (caption, video) pairs in large batches, with
texts at their real length, and its last layer computes [CLS] only.

B pairs of a batch, T frames, L text tokens, N patches, D width, E width of VTC's space; Q captions, V videos.
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
from alpro.errors import ConfigError, DataError
from alpro.evaluation import metrics
from alpro.evaluation.clips import Preprocessing, VideoMode
from alpro.evaluation.features import FeatureStore, VideoEncoder
from alpro.evaluation.resume import Arrays, FinishedUnits, ResumeState
from alpro.evaluation.sharing import Progress, compute_distributed, evaluating
from alpro.evaluation.texts import CHUNK, TextBank, by_length, encoded, token_ids
from alpro.models import Alpro

VIDEOS_PER_UNIT = 4  # encoded and scored together; a constant, because it affects the rounding of the results

Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rerank = Literal["both", "text2video"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Which pairs VTM scores, and how ties are ranked.

    With `rerank` K, VTC ranks and VTM scores only the K best videos of each caption and, unless `rerank_for` is text2video,
    the K best captions of each video (which VTC alone ranks otherwise). `round_scores`: the released code's ranking, by
    scores rounded to this many decimals, with an unstable sort and one caption per video.
    """

    rerank: int | None = None
    rerank_for: Rerank = "both"
    round_scores: int | None = None

    def __post_init__(self) -> None:
        if self.rerank is not None and self.round_scores is not None:
            raise ConfigError(
                "rerank and round_scores exclude each other: the released code scores all pairs; unset one of them"
            )


@dataclass(frozen=True)
class RetrievalResult:
    """Result of a retrieval evaluation; identical on every rank.

    scores (Q, V): VTM's probability of a match, NaN for pairs that re-ranking left out; similarities (Q, V): VTC's cosine.
    """

    video_ids: list[str]
    text_ids: list[str]
    texts: list[str]
    owner: list[int]  # the video of each caption
    scores: Scores
    similarities: Scores
    rerank: int | None = None
    round_scores: int | None = None
    _best: tuple[Mask, Mask] | None = field(default=None, repr=False)

    @cached_property
    def text_order(self) -> NDArray[np.float64]:
        """Values (Q, V) that rank the videos of a caption: the scores. Under re-ranking, pairs outside of VTC's K best come
        below all others, in VTC's order.
        """
        return self._order(0)

    @cached_property
    def video_order(self) -> NDArray[np.float64]:
        """Values (V, Q) that rank the captions of a video, as in `text_order`."""
        return self._order(1).T

    def _order(self, direction: int) -> NDArray[np.float64]:
        scores = self.scores.astype(np.float64)
        if self.round_scores is not None:
            return np.round(scores, self.round_scores)
        if self._best is None:
            return scores
        # Cosines are at most 1, so that minus 3 puts them below every probability.
        return np.where(self._best[direction], scores, self.similarities.astype(np.float64) - 3)

    @cached_property
    def described_videos(self) -> list[int]:
        """Videos that have a caption: the queries of video to text."""
        return sorted(set(self.owner))

    @cached_property
    def text_ranks(self) -> metrics.Ranks:
        """Rank of each caption's video, (Q,)."""
        return metrics.rank_queries(self.text_order, [[video] for video in self.owner])

    @cached_property
    def video_ranks(self) -> metrics.Ranks:
        """Rank of the best-placed caption of each described video."""
        captions = metrics.retrieval_truth(self.owner, len(self.video_ids))[1]
        return metrics.rank_queries(self.video_order[self.described_videos], [captions[v] for v in self.described_videos])

    @cached_property
    def ranks(self) -> tuple[metrics.Ints, metrics.Ints]:
        """Ranks that the metrics count, text to video and video to text; with `round_scores`, the released code's."""
        if self.round_scores is not None:
            return metrics.official_ranks(self.scores, self.owner, self.round_scores)
        return self.text_ranks.stable, self.video_ranks.stable

    def reranked(self, count: int | None, rerank_for: Rerank = "both") -> RetrievalResult:
        """Return the result of re-ranking VTC's `count` best, from the scores at hand; None: VTC alone."""
        best = _best_pairs(self.similarities, count or 0, rerank_for)
        return replace(self, rerank=count, round_scores=None, _best=best)

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return {"text2video": {r1, r5, r10, medianR, meanR}, "video2text": {...}}, recalls in percent."""
        text, video = self.ranks
        return {"text2video": metrics.recall_metrics(text), "video2text": metrics.recall_metrics(video)}

    def flat_metrics(self) -> dict[str, float]:
        """Return the same with one level of names, for training logs: r1 ... meanR, and v2t_r1 ... v2t_meanR."""
        by_direction = self.metrics()
        return by_direction["text2video"] | {f"v2t_{name}": value for name, value in by_direction["video2text"].items()}

    def ties(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return the metrics under other orders of equal scores (`metrics.tie_metrics`), by direction."""
        return {"text2video": metrics.tie_metrics(self.text_ranks), "video2text": metrics.tie_metrics(self.video_ranks)}

    def best_videos(self, text: int, count: int = 5) -> list[tuple[str, float]]:
        """Return the ids of the first videos for a caption, with the values that rank them."""
        row = self.text_order[text]
        return [(self.video_ids[v], float(row[v])) for v in np.argsort(-row, kind="stable")[:count]]

    def best_texts(self, video: int, count: int = 5) -> list[tuple[str, float]]:
        """Return the ids of the first captions for a video, with the values that rank them."""
        row = self.video_order[video]
        return [(self.text_ids[t], float(row[t])) for t in np.argsort(-row, kind="stable")[:count]]


def evaluate_retrieval(
    model: Alpro,
    records: Sequence[Record],
    tokenizer: Any,
    preprocessing: Preprocessing,
    *,
    mode: VideoMode = "full",
    ranking: Ranking = Ranking(),
    batch_pairs: int = 64,
    progress: Progress | None = None,
    resume: ResumeState | None = None,
) -> RetrievalResult:
    """Score every caption of the records against every video. All ranks call it and get the same result.

    `batch_pairs`: pairs of one multimodal batch. `resume`: saves finished work; without it, encoded videos stay in memory, or
    go to a temporary folder if they don't fit. Raises DataError for an unreadable video and for scores that are not finite.
    """
    texts = [(f"{record.id}#{n}", text, v) for v, record in enumerate(records) for n, text in enumerate(record.captions)]
    if not texts:
        raise DataError("the records have no captions: nothing to retrieve with")
    reader = preprocessing.reader(mode)
    videos = list(records[:1]) if reader.is_blind else list(records)
    with evaluating(model, preprocessing.precision) as device, ExitStack() as temporary:
        ids = token_ids(tokenizer, [text for _, text, _ in texts], preprocessing.max_text_tokens)
        encoder = VideoEncoder(model, reader, videos, device)
        finished: dict[str, FinishedUnits | None] = {"texts": None, "scores": None}
        if resume is not None:
            folder, encoder.store = resume.open(
                model, reader, videos, preprocessing.precision, device, ids=ids, rerank=ranking.rerank,
                rerank_for=ranking.rerank_for, batch_pairs=batch_pairs, task="retrieval",
            )  # fmt: skip
            finished = {phase: FinishedUnits(folder / phase) for phase in finished}
        elif not encoder.fit_in_memory():
            encoder.store = FeatureStore(temporary.enter_context(tempfile.TemporaryDirectory(prefix="alpro-features-")))
        bank, text_features = _encode_texts(model, ids, device, finished["texts"])
        scores, similarities, best = _score(
            model, encoder, bank, text_features, ranking, batch_pairs, _TwoPhaseProgress(progress), finished["scores"]
        )
    if reader.is_blind:  # the scores of the one black video are those of all
        shape = (len(texts), len(records))
        scores, similarities = np.broadcast_to(scores, shape).copy(), np.broadcast_to(similarities, shape).copy()
        best = None
    return RetrievalResult(
        video_ids=[record.id for record in records],
        text_ids=[text_id for text_id, _, _ in texts],
        texts=[text for _, text, _ in texts],
        owner=[video for _, _, video in texts],
        scores=scores,
        similarities=similarities,
        rerank=ranking.rerank,
        round_scores=ranking.round_scores,
        _best=best,
    )


def _encode_texts(
    model: Alpro, ids: list[list[int]], device: torch.device, finished: FinishedUnits | None
) -> tuple[TextBank, Scores]:
    """Encode all texts; return their token features, and their unit vectors (Q, E) in VTC's space."""
    chunks = by_length([len(row) for row in ids], CHUNK)

    def encode(unit: int) -> Arrays:
        rows = encoded(ids, chunks[unit], model.encode_text, device)
        vectors = model.text_feature(torch.stack([tokens[:1] for tokens in rows]))
        return torch.cat(rows).float().cpu().numpy(), vectors.cpu().numpy()

    tokens: list[Scores] = [np.empty(0, np.float32)] * len(ids)
    vectors: list[Scores] = list(tokens)
    for chunk, (rows, features) in zip(
        chunks, compute_distributed([float(len(c)) for c in chunks], encode, finished=finished), strict=True
    ):
        ends = np.cumsum([len(ids[i]) for i in chunk])
        for i, row, feature in zip(chunk, np.split(rows, ends[:-1]), features, strict=True):
            tokens[i], vectors[i] = row, feature
    return TextBank(tokens, device), np.stack(vectors)


def _score(
    model: Alpro,
    encoder: VideoEncoder,
    bank: TextBank,
    text_features: Scores,
    ranking: Ranking,
    batch_pairs: int,
    progress: _TwoPhaseProgress,
    finished: FinishedUnits | None,
) -> tuple[Scores, Scores, tuple[Mask, Mask] | None]:
    """Encode all videos, then score the pairs; return scores (Q, V), similarities (Q, V) and the pairs to re-rank, if any."""
    count = len(encoder.records)
    units = [range(start, min(start + VIDEOS_PER_UNIT, count)) for start in range(0, count, VIDEOS_PER_UNIT)]
    in_memory: dict[int, Tensor] = {}  # tokens (videos, 1+N, D) of this rank's units, if there is no store

    def encode(unit: int, videos: Tensor) -> Scores:
        if encoder.store is None:
            in_memory[unit] = videos
        return model.video_feature(videos).cpu().numpy()

    sizes = [float(len(unit)) for unit in units]
    video_features = np.concatenate(compute_distributed(sizes, encode, encoder.units(units), progress.encoding))
    similarities = text_features @ video_features.T
    best = None if ranking.rerank is None else _best_pairs(similarities, ranking.rerank, ranking.rerank_for)
    needed = np.ones(similarities.shape, bool) if best is None else best[0] | best[1]

    def score(unit: int, videos: Tensor) -> Arrays:
        return (_score_pairs(model, bank, videos, needed[:, list(units[unit])], batch_pairs),)

    if encoder.store is None:  # each rank scores the units that it encoded
        results = compute_distributed(sizes, lambda unit: score(unit, in_memory.pop(unit)), progress=progress.scoring)
    else:
        pairs = [float(1 + needed[:, list(unit)].sum()) for unit in units]
        results = compute_distributed(pairs, score, encoder.units(units), progress.scoring, finished)
    scores = np.concatenate([of_unit for (of_unit,) in results], axis=1)
    if not np.isfinite(scores[needed]).all():
        raise DataError("the scores are not finite: the model is broken (NaN weights?); check the checkpoint")
    return scores, similarities, best


def _best_pairs(similarities: Scores, count: int, rerank_for: Rerank = "both") -> tuple[Mask, Mask]:
    """Return masks (Q, V) of VTC's `count` best pairs: the videos of each caption, and the captions of each video."""

    def best(rows: Scores, count: int) -> Mask:
        mask = np.zeros(rows.shape, bool)
        np.put_along_axis(mask, np.argsort(-rows, axis=1, kind="stable")[:, :count], True, axis=1)
        return mask

    return best(similarities, count), best(similarities.T, count if rerank_for == "both" else 0).T


def _score_pairs(model: Alpro, bank: TextBank, videos: Tensor, needed: Mask, batch_pairs: int) -> Scores:
    """Return VTM's probability of a match for the needed pairs (Q, videos), NaN elsewhere; videos (videos, 1+N, D)."""
    scores = np.full(needed.shape, np.nan, np.float32)
    text_of, video_of = np.nonzero(needed)
    lengths = bank.lengths.cpu().numpy()[text_of]
    for chunk in by_length(lengths.tolist(), batch_pairs):
        texts, mask = bank.batch(torch.from_numpy(text_of[chunk]).to(videos.device))
        match = model.match(texts, mask, videos[torch.from_numpy(video_of[chunk])]).float().softmax(-1)[:, 1]
        scores[text_of[chunk], video_of[chunk]] = match.cpu().numpy()
    return scores


class _TwoPhaseProgress:
    """Progress of encoding and scoring as one; both phases have about as many units."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.encoded = progress, 0

    def encoding(self, done: int, total: int) -> None:
        self.encoded = done
        if self.progress is not None:
            self.progress(done, 2 * total)

    def scoring(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(self.encoded + done, self.encoded + total)
