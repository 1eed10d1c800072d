"""Answers a text with the best clips of an index: VTC finds K, VTM puts them in order (paper, section 4.2)."""

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
from alpro.search.index import Gallery
from alpro.serving.service import Service

RERANK = 128  # the field's custom
BATCH = 32  # pairs that VTM scores together


@dataclass(frozen=True, slots=True)
class Hit:
    """A clip that was found: `score` is VTM's probability of a match, None where VTM did not look."""

    video: str
    score: float | None
    similarity: float  # VTC's cosine


class Searcher:
    """A model with the index that it made."""

    def __init__(self, service: Service, gallery: Gallery) -> None:
        """Raises CheckpointError when another model made the index."""
        if fingerprint.weights(service.model) != gallery.facts["weights"]:
            raise CheckpointError("the index was made with another checkpoint; name that one, or index again")
        self.service, self.gallery = service, gallery

    def search(self, text: str, count: int = 5, rerank: int = RERANK) -> list[Hit]:
        """The `count` best clips. VTM re-ranks the `rerank` best of VTC, and those stand before all others; 0: VTC alone.

        Raises DataError for an empty text, and for an index whose files are gone.
        """
        if not text.strip():
            raise DataError("the query is empty")
        service, gallery = self.service, self.gallery
        model = service.model
        rerank = 0 if service.task == "prompter" else rerank
        with evaluating(model) as device:
            ids, mask = padded_ids(token_ids(service.tokenizer, [text], service.max_text_tokens), device)
            encoded = model.encode_text(ids, mask)
            near, similarities = gallery.nearest(model.text_feature(encoded)[0].cpu().numpy(), max(count, rerank))
            scores: list[float] = []
            for start in range(0, min(rerank, len(near)), BATCH):
                chosen = near[start : min(start + BATCH, rerank)]
                videos = torch.cat([self._tokens(int(position)) for position in chosen]).to(device)
                texts, masks = encoded.expand(len(videos), -1, -1), mask.expand(len(videos), -1)
                scores += model.match(texts, masks, videos).float().softmax(-1)[:, 1].tolist()
        order = sorted(range(len(scores)), key=lambda n: -scores[n]) + list(range(len(scores), len(near)))
        return [
            Hit(gallery.videos[near[n]].path, scores[n] if n < len(scores) else None, float(similarities[n]))
            for n in order[:count]
        ]

    def _tokens(self, position: int) -> torch.Tensor:
        path = self.gallery.tokens.named(self.gallery.videos[position].sha256)
        try:
            return read_tokens(path)
        except FileNotFoundError:
            raise DataError(f"{path}: gone from the index; index again") from None


def show(hits: list[Hit], videos: str | Path, as_json: bool = False) -> str:
    """Hits as lines or as JSON."""
    if as_json:
        return json.dumps([asdict(hit) for hit in hits], indent=1)
    lines = []
    for place, hit in enumerate(hits, 1):
        score = "-" if hit.score is None else f"{hit.score:.3f}"
        lines.append(f"{place:3}  {score:>6}  {hit.similarity:6.3f}  {Path(videos) / hit.video}")
    return "\n".join(["      match  cosine  video", *lines])
