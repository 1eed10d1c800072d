"""What the parameters and the published figures ask of a set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from alpro.config import Params, Training
from alpro.data.validation.facts import PUBLISHED, Published


@dataclass(frozen=True, slots=True)
class Limits:
    """What is asked of one set. `needed` are the splits whose videos this pipeline reads."""

    kind: Literal["corpus", "retrieval", "qa"]
    needed: tuple[str, ...]
    max_text_tokens: int
    num_frames: int
    max_unreadable: float
    published: dict[str, Published]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for params.json."""
        return asdict(self)


def limits_of(params: Params, name: str) -> Limits:
    """The limits of a corpus or data set. Published figures hold for real data under their official name."""
    published = PUBLISHED.get(name, {}) if params.sample is None else {}
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
        {split: facts for split, facts in published.items() if split in needed},
    )


def _needed(params: Params, name: str) -> tuple[str, ...]:
    """With a fine-tuned checkpoint given, a data set is only evaluated: nobody needs its training videos."""
    from alpro.config.pipeline import pipeline_outputs

    splits: set[str] = {section[name].split for section in (params.evaluate, params.zeroshot) if name in section}
    if f"models/{params.recipe}/finetune/{name}" in pipeline_outputs(params):
        splits |= {"train", "val"}
    return tuple(split for split in ("train", "val", "test") if split in splits)
