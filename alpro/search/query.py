"""Text queries on an index: VTC finds the K best clips, VTM re-ranks them (arXiv 2112.09583, section 4.2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alpro.errors import CheckpointError, DataError
from alpro.evaluation.features import read_tokens
from alpro.evaluation.sharing import evaluating
from alpro.evaluation.texts import padded_ids, token_ids
from alpro.files import fingerprint
from alpro.files.names import text_fault
from alpro.search.index import Features, VideoIndex
from alpro.serving.service import Service

RERANK = 128  # customary in video retrieval
BATCH = 32  # pairs per call of VTM


@dataclass(frozen=True, slots=True)
class Hit:
    """A clip found by a query; `score` is VTM's probability of a match, None if VTM did not score it."""

    video: str
    score: float | None
    similarity: float  # VTC's cosine


@dataclass(frozen=True, slots=True)
class Query:
    """A text, the number of clips to return, and how many of VTC's best clips VTM re-ranks."""

    text: str
    count: int = 5
    rerank: int = RERANK


class Searcher:
    """A model with its index."""

    def __init__(self, service: Service, index: VideoIndex) -> None:
        """Raises CheckpointError if the index was made with another model."""
        if fingerprint.weights(service.model) != index.metadata["weights"]:
            raise CheckpointError("the index was made with another checkpoint; use that one, or index again")
        self.service, self.index = service, index

    def search(self, text: str, count: int = 5, rerank: int = RERANK) -> list[Hit]:
        """Return the `count` best clips. VTM re-ranks VTC's `rerank` best, which come before all others; 0 uses VTC alone.

        Raises DataError for an empty text, and if files of the index are missing.
        """
        return self.search_many([Query(text, count, rerank)])[0]

    def search_many(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Return the best clips of each query, as `search` does. The texts are encoded together, and so are pairs for VTM."""
        for query in queries:
            if not query.text.strip():
                raise DataError("the query is empty")
            if fault := text_fault(query.text):
                raise DataError(f"the query {fault}")
        service, index, model = self.service, self.index, self.service.model
        reranks = [0 if service.task == "prompter" else query.rerank for query in queries]
        with evaluating(model) as device:
            texts = [query.text for query in queries]
            ids, mask = padded_ids(token_ids(service.tokenizer, texts, service.max_text_tokens), device)
            encoded = model.encode_text(ids, mask)
            features = model.text_feature(encoded).cpu().numpy()
            best = [
                index.nearest(feature, max(query.count, rerank))
                for feature, query, rerank in zip(features, queries, reranks, strict=True)
            ]
            pairs = [
                (n, int(row)) for n, ((rows, _), rerank) in enumerate(zip(best, reranks, strict=True)) for row in rows[:rerank]
            ]
            scores = iter(self._scores(encoded, mask, pairs))
        return [
            self._hits(rows, similarities, [next(scores) for _ in rows[:rerank]], query.count)
            for query, rerank, (rows, similarities) in zip(queries, reranks, best, strict=True)
        ]

    def similar(self, video: str, count: int = 5) -> list[Hit]:
        """Return the clips whose VTC features are most similar to a clip of the index, without the clip itself.

        Raises DataError if the index does not contain the clip.
        """
        position = next((n for n, known in enumerate(self.index.videos) if known.path == video), None)
        if position is None:
            raise DataError(f"{video}: not in the index; index again")
        rows, similarities = self.index.nearest(self.index.features[position], count + 1)
        others = [n for n, row in enumerate(rows) if row != position][:count]
        return self._hits(rows[others], similarities[others], [], count)

    def _scores(self, texts: Tensor, mask: Tensor, pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Return VTM's probability of a match for pairs of a text (its number) and a clip (its row)."""
        model, scores = self.service.model, list[float]()
        for start in range(0, len(pairs), BATCH):
            batch = pairs[start : start + BATCH]
            videos = torch.cat([self._tokens(row) for _, row in batch]).to(texts.device)
            chosen = torch.tensor([n for n, _ in batch], device=texts.device)
            scores += model.match(texts[chosen], mask[chosen], videos).float().softmax(-1)[:, 1].tolist()
        return scores

    def _hits(self, rows: NDArray[np.int64], similarities: Features, scores: Sequence[float], count: int) -> list[Hit]:
        order = sorted(range(len(scores)), key=lambda n: -scores[n]) + list(range(len(scores), len(rows)))
        return [
            Hit(self.index.videos[rows[n]].path, scores[n] if n < len(scores) else None, float(similarities[n]))
            for n in order[:count]
        ]

    def _tokens(self, row: int) -> torch.Tensor:
        path = self.index.tokens.named(self.index.videos[row].sha256)
        try:
            return read_tokens(path)
        except FileNotFoundError:
            raise DataError(f"{path}: missing from the index; index again") from None


def show(hits: list[Hit], videos: str | Path, as_json: bool = False) -> str:
    """Format hits as a table or as JSON."""
    if as_json:
        return json.dumps([asdict(hit) for hit in hits], indent=1)
    lines = []
    for rank, hit in enumerate(hits, 1):
        score = "-" if hit.score is None else f"{hit.score:.3f}"
        lines.append(f"{rank:3}  {score:>6}  {hit.similarity:6.3f}  {Path(videos) / hit.video}")
    return "\n".join(["      match  cosine  video", *lines])
