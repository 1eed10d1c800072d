"""Text queries on an index: VTC finds the K best clips, VTM re-ranks them (arXiv 2112.09583, section 4.2)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from alpro.errors import CheckpointError, DataError
from alpro.evaluation.features import read_tokens
from alpro.evaluation.sharing import evaluating
from alpro.evaluation.texts import padded_ids, token_ids
from alpro.files import fingerprint
from alpro.files.names import text_fault
from alpro.search.index import VideoIndex
from alpro.serving.service import Service

RERANK = 128  # customary in video retrieval
BATCH = 32  # pairs per call of VTM


@dataclass(frozen=True, slots=True)
class Hit:
    """A clip found by a query; `score` is VTM's probability of a match, None if VTM did not score it."""

    video: str
    score: float | None
    similarity: float  # VTC's cosine


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
        if not text.strip():
            raise DataError("the query is empty")
        if fault := text_fault(text):
            raise DataError(f"the query {fault}")
        service, index = self.service, self.index
        model = service.model
        rerank = 0 if service.task == "prompter" else rerank
        with evaluating(model) as device:
            ids, mask = padded_ids(token_ids(service.tokenizer, [text], service.max_text_tokens), device)
            encoded = model.encode_text(ids, mask)
            rows, similarities = index.nearest(model.text_feature(encoded)[0].cpu().numpy(), max(count, rerank))
            scores: list[float] = []
            for start in range(0, min(rerank, len(rows)), BATCH):
                batch = rows[start : min(start + BATCH, rerank)]
                videos = torch.cat([self._tokens(int(row)) for row in batch]).to(device)
                texts, masks = encoded.expand(len(videos), -1, -1), mask.expand(len(videos), -1)
                scores += model.match(texts, masks, videos).float().softmax(-1)[:, 1].tolist()
        order = sorted(range(len(scores)), key=lambda n: -scores[n]) + list(range(len(scores), len(rows)))
        return [
            Hit(index.videos[rows[n]].path, scores[n] if n < len(scores) else None, float(similarities[n]))
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
