"""Limits that a set must meet, from the parameters and the published counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from alpro.config import Params, Training
from alpro.data.validation.published_counts import PUBLISHED_COUNTS, PublishedCounts


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one set. `needed` are the splits whose videos this pipeline reads."""

    kind: Literal["corpus", "retrieval", "qa"]
    needed: tuple[str, ...]
    max_text_tokens: int
    num_frames: int
    max_unreadable: float
    published: dict[str, PublishedCounts]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for params.json."""
        return asdict(self)


def limits_of(params: Params, name: str) -> Limits:
    """Return the limits of a corpus or dataset. Published counts apply only to real data under its official name."""
    published = PUBLISHED_COUNTS.get(name, {}) if params.sample is None else {}
    image = name in params.corpora and params.corpora[name].media == "image"  # a still is repeated as frames
    if name in params.corpora:
        trainings: list[Training] = [t for t in (params.prompter, params.pretrain) if name in t.corpora]
        trainings = trainings or [params.prompter, params.pretrain]
        kind: Literal["corpus", "retrieval", "qa"] = "corpus"
        needed: tuple[str, ...] = ("train", "val") if params.corpora[name].val else ("train",)
    else:
        trainings, kind, needed = [params.finetune[name]], params.datasets[name].task, _needed(params, name)
    return Limits(
        kind,
        needed,
        min(t.max_text_tokens for t in trainings),
        1 if image else max(t.num_frames for t in trainings),
        params.loader.max_unreadable,
        {split: counts for split, counts in published.items() if split in needed},
    )


def _needed(params: Params, name: str) -> tuple[str, ...]:
    """Return the splits that the pipeline reads: only the evaluated ones if a fine-tuned checkpoint is configured."""
    from alpro.config.pipeline import pipeline_outputs

    splits: set[str] = {section[name].split for section in (params.evaluate, params.zeroshot) if name in section}
    if f"models/{params.recipe}/finetune/{name}" in pipeline_outputs(params):
        splits |= {"train", "val"}
    return tuple(split for split in ("train", "val", "test") if split in splits)
