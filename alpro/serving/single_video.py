"""Inference on one video with a question or with texts: `alpro ask` and `alpro match`, and the same in Python.

    from alpro.serving import ask, load, match

    model = load("models/sample/finetune/msvd_qa")
    ask(model, "video.mp4", "what is the man doing?")        # [Answer(answer="cook", probability=0.62), ...]
    model = load("model_step_best.pt", tokenizer="ext/bert-base-uncased")
    match(model, "video.mp4", ["a man cooks", "a dog runs"])  # [Match(text="a man cooks", probability=0.97, ...), ...]

The results equal those of the evaluation, through `service.Service`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

from alpro.data.media.frames import Strategy
from alpro.errors import CheckpointError, ConfigError, DataError, nearest
from alpro.files.listing import NOT_UTF8
from alpro.files.names import is_text, same_name, shown, text_fault
from alpro.serving.service import TEXT_COLUMN, Service


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the most likely answers to a question."""

    answer: str
    probability: float


@dataclass(frozen=True, slots=True)
class Match:
    """Match of a text and a video: VTM's probability (None for a prompter, which has no VTM) and VTC's cosine."""

    text: str
    probability: float | None
    similarity: float


def load(
    checkpoint: str | Path,
    *,
    step: str = "best",
    tokenizer: str | Path | None = None,
    answers: str | Path | None = None,
    frames: str | None = None,
    max_text_tokens: int | None = None,
) -> Service:
    """Load a checkpoint directory, an official .pt file, or a `step` of an official output folder.

    The result is for `ask` and `match`. Options that are not passed come from the checkpoint. If it lacks them, the
    tokenizer is BERT's in ext/bert-base-uncased, frames are `uniform` and texts have at most 40 tokens.
    Raises CheckpointError or DataError for missing or mismatched files, ConfigError for an unknown frame strategy.
    """
    from alpro.evaluation.official import find_checkpoint, official_preprocessing

    strategies = [name for name in get_args(Strategy) if name != "random"]
    if frames is not None and frames not in strategies:
        raise ConfigError(f"frames {frames!r}: must be one of {', '.join(strategies)}{nearest(frames, strategies)}")
    checkpoint_file = find_checkpoint(checkpoint, step)
    preprocessing = official_preprocessing(checkpoint_file.training)
    strategy = cast(Strategy | None, frames or preprocessing.get("eval_frames"))
    text_tokens = max_text_tokens or preprocessing.get("max_text_tokens")
    return Service.load(checkpoint_file.path, strategy, text_tokens, "/", tokenizer=tokenizer, answers=answers)


def ask(model: Service, video: str | Path, question: str) -> list[Answer]:
    """Return the five most likely answers to a question, most likely first.

    Raises CheckpointError if the model does not answer questions, DataError for an empty question or an unreadable video.
    """
    if TEXT_COLUMN[model.task] != "question":
        raise CheckpointError(f"a {model.task} checkpoint cannot answer questions; use one of task qa")
    row = _rows(model, video, [question])[0]
    return [Answer(*pair) for pair in zip(row["top_answers"], row["top_probabilities"], strict=True)]


def match(model: Service, video: str | Path, texts: Sequence[str]) -> list[Match]:
    """Return how well each text fits the video, in the order of the texts. Raises as `ask` does."""
    if TEXT_COLUMN[model.task] != "caption":
        raise CheckpointError(f"a {model.task} checkpoint cannot match texts; use one of task retrieval, pretrain or prompter")
    if not texts:
        raise DataError("no text to match; pass at least one")
    rows = _rows(model, video, texts)
    return [Match(text, row.get("score"), row["similarity"]) for text, row in zip(texts, rows, strict=True)]


def show_answers(answers: Sequence[Answer], as_json: bool = False) -> str:
    """Format answers as a table or as JSON."""
    if as_json:
        return json.dumps([asdict(answer) for answer in answers], ensure_ascii=False)
    return "\n".join(f"{100 * answer.probability:5.1f} %  {answer.answer}" for answer in answers)


def show_matches(matches: Sequence[Match], as_json: bool = False) -> str:
    """Format matches as a table with the columns VTM and VTC, or as JSON."""
    if as_json:
        return json.dumps([asdict(match) for match in matches], ensure_ascii=False)
    rows = [
        f"{'-':>7}  {m.similarity:6.3f}  {m.text}"
        if m.probability is None
        else f"{100 * m.probability:5.1f} %  {m.similarity:6.3f}  {m.text}"
        for m in matches
    ]
    return "\n".join([f"{'VTM':>7}  {'VTC':>6}", *rows])


def _rows(model: Service, video: str | Path, texts: Sequence[str]) -> list[dict[str, Any]]:
    import pandas

    path = Path(video).expanduser().absolute()
    if not is_text(str(path)):
        raise DataError(f"{shown(path)}: {NOT_UTF8}")
    path = path if path.is_file() else same_name(path) or path
    if not path.is_file():
        raise DataError(f"{video}: no such file; pass a video")
    for text in texts:
        if fault := text_fault(text):
            raise DataError(f"text '{shown(text)}' {fault}")
    if not all(text.strip() for text in texts):
        raise DataError("a text is empty; pass some words")
    table = pandas.DataFrame({"video": [str(path)] * len(texts), TEXT_COLUMN[model.task]: list(texts)})
    return model.predict(table).to_dict("records")
