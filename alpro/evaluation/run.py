"""Evaluate a checkpoint on a data set's split, and write the stage's record: figures, predictions, pictures.

    run_evaluation(params, "msrvtt_ret", checkpoint="models/sample/finetune/msrvtt_ret", record="reports/evaluate/msrvtt_ret")

The record holds no times and no names of runs: the same data, checkpoint and parameters give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro import distributed
from alpro.checkpoints.load import load_model
from alpro.checkpoints.start import start
from alpro.config import Dataset, Evaluation, Params, Training
from alpro.data.annotations.read import annotation_file, read_answer_list, read_answers, read_dataset
from alpro.data.annotations.records import Record
from alpro.data.batches.unreadable import refuse_unreadable
from alpro.data.media.frames import Strategy
from alpro.data.media.index import probe_cache_path
from alpro.data.text.tokenizer import load_tokenizer
from alpro.errors import ConfigError, nearest
from alpro.evaluation.clips import Look
from alpro.evaluation.progress import reporting
from alpro.evaluation.qa import QAResult, evaluate_qa
from alpro.evaluation.resume import Workplace
from alpro.evaluation.retrieval import RetrievalResult, evaluate_retrieval
from alpro.evaluation.summary import MotionTest, qa_rows, retrieval_rows, summarise_qa, summarise_retrieval
from alpro.files.atomic import atomic_write, new_dir, sha256
from alpro.files.json_files import write_json
from alpro.models import Alpro, build_model

LOOKS: tuple[Look, ...] = ("full", "one_frame", "blind")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated: a model with its tokenizer and, for question answering, its answer list."""

    model: Alpro
    tokenizer: Any
    answers: Mapping[str, int] | None
    info: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Viewing:
    """How clips and texts reach the model."""

    num_frames: int
    image_size: int
    max_text_tokens: int
    frames_strategy: Strategy
    precision: str
    decode_size: int | None = None

    @classmethod
    def of(cls, training: Training, image_size: int) -> Viewing:
        """As the fine-tuning of the data set says."""
        return cls(
            num_frames=training.num_frames,
            image_size=image_size,
            max_text_tokens=training.max_text_tokens,
            frames_strategy=training.eval_frames,
            precision=training.precision,
            decode_size=training.decode_size,
        )


def run_evaluation(
    params: Params,
    task: str,
    *,
    checkpoint: str | Path,
    record: str | Path,
    zero_shot: bool = False,
    looks: Sequence[Look] = LOOKS,
    state: str | Path = ".state",
) -> dict[str, Any]:
    """Evaluate a data set's split under params.yaml, with its ablations, and write the record; returns its figures.

    All ranks call it; the first one writes. `checkpoint` is a checkpoint or, for a model that was not trained at all, a file
    of recipes/init. A killed evaluation goes on from what it left in `state`. Raises ConfigError for a task without
    settings, and as reading data and checkpoints does.
    """
    settings = _settings(params, task, zero_shot)
    dataset, training = params.datasets[task], params.finetune[task]
    records = read_dataset(dataset, settings.split)
    refuse_unreadable(records, training.num_frames, training.eval_frames, probe_cache_path(dataset.videos, state))
    tokenizer_folder = _tokenizer_folder(checkpoint, params.text.tokenizer)
    answers = None if dataset.task == "retrieval" else answer_list(checkpoint, dataset)
    subject = load_subject(params, dataset.task, checkpoint, training.num_frames, tokenizer_folder, answers)
    viewing = Viewing.of(training, subject.model.config.image_size)
    place = Workplace(Path(state) / "evaluate" / Path(record).name, settings.features)
    found = {look: evaluate(subject, records, viewing, settings, look, f"{task} {look}", place) for look in looks}
    if dataset.task == "retrieval":
        summary, rows = summarise_retrieval(found, settings.bootstrap), retrieval_rows(found)  # type: ignore[arg-type]
    else:
        is_motion = _motion_test(params)
        summary = summarise_qa(found, settings.bootstrap, is_motion)  # type: ignore[arg-type]
        rows = qa_rows(found, is_motion)  # type: ignore[arg-type]
    given = {
        "recipe": params.recipe,
        "task": task,
        "zero_shot": zero_shot,
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": checkpoint_digest(checkpoint),
        "annotations": str(annotation_file(dataset, settings.split)),
        "annotations_sha256": sha256(annotation_file(dataset, settings.split)),
        "videos": dataset.videos,
        "evaluate": settings.model_dump(exclude={"checkpoint", "features"}),
        "num_frames": viewing.num_frames,
        "image_size": viewing.image_size,
        "max_text_tokens": viewing.max_text_tokens,
        "frames": viewing.frames_strategy,
        "precision": viewing.precision,
        "decode_size": viewing.decode_size,
        "model": subject.model.config.model_dump(),
        "looks": list(looks),
    }
    if distributed.rank() == 0:
        write_record(Path(record), given, summary, rows, found)
        place.done()
    distributed.barrier()
    return rounded(summary)


def evaluate(
    subject: Subject,
    records: Sequence[Record],
    viewing: Viewing,
    settings: Evaluation,
    look: Look = "full",
    label: str = "",
    place: Workplace | None = None,
) -> RetrievalResult | QAResult:
    """One evaluation of a subject, with its progress shown under `label`, and what a kill leaves of it kept in `place`."""
    shared: dict[str, Any] = {
        "num_frames": viewing.num_frames, "image_size": viewing.image_size, "max_text_tokens": viewing.max_text_tokens,
        "frames_strategy": viewing.frames_strategy, "precision": viewing.precision, "batch_pairs": settings.batch_pairs,
        "decode_size": viewing.decode_size, "look": look, "place": place,
    }  # fmt: skip
    with reporting(label) as progress:
        if subject.answers is not None:
            return evaluate_qa(subject.model, records, subject.tokenizer, subject.answers, **shared, progress=progress)  # type: ignore[arg-type]
        return evaluate_retrieval(
            subject.model, records, subject.tokenizer, **shared, progress=progress,
            rerank=settings.rerank, rerank_for=settings.rerank_for, round_scores=settings.round_scores,
        )  # fmt: skip


def write_record(
    folder: Path,
    given: Mapping[str, Any],
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    found: Mapping[Look, RetrievalResult | QAResult],
) -> None:
    """Write params.json, metrics.json, predictions.jsonl and plots/ into a folder, as a whole or not at all."""
    from alpro.evaluation.plots import plot_qa, plot_retrieval

    with new_dir(folder) as made:
        write_json(made / "params.json", given)
        write_json(made / "metrics.json", rounded(summary))
        write_rows(made / "predictions.jsonl", rows)
        if isinstance(found["full"], RetrievalResult):
            plot_retrieval(found, made / "plots")  # type: ignore[arg-type]
        else:
            plot_qa(found, summary, made / "plots")  # type: ignore[arg-type]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def rounded(value: Any, decimals: int = 6) -> Any:
    """The same with every float rounded, however deep: digits beyond are noise to whoever reads the file."""
    if isinstance(value, Mapping):
        return {key: rounded(inner, decimals) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(inner, decimals) for inner in value]
    return round(value, decimals) if isinstance(value, float) else value


def checkpoint_digest(checkpoint: str | Path) -> str:
    """SHA-256 of a checkpoint's weights: of model.safetensors in a directory, else of the file."""
    path = Path(checkpoint)
    return sha256(path / "model.safetensors" if path.is_dir() else path)


def _settings(params: Params, task: str, zero_shot: bool) -> Evaluation:
    section: Mapping[str, Evaluation] = params.zeroshot if zero_shot else params.evaluate
    if task not in section:
        name = "zeroshot" if zero_shot else "evaluate"
        raise ConfigError(f"{name}.{task}: not in params.yaml{nearest(task, section)}")
    return section[task]


def load_subject(
    params: Params, kind: str, checkpoint: str | Path, frames: int, tokenizer_folder: Path, answers: Mapping[str, int] | None
) -> Subject:
    """A checkpoint's model for a task (retrieval or qa), on this process's device.

    A file of recipes/init in the checkpoint's place makes an untrained model.
    """
    info: Mapping[str, Any] = {}
    if Path(checkpoint).suffix in (".yaml", ".yml"):
        width = max(answers.values()) + 1 if answers else None
        model = build_model(kind, num_frames=frames, config=params.model, num_answers=width, seed=params.seed)
        start(model, checkpoint, params.seed)
    else:
        model, info, _ = load_model(checkpoint, kind, num_frames=frames)
    tokenizer = load_tokenizer(tokenizer_folder, vocab_size=model.config.vocab_size)
    return Subject(model.to(distributed.device()), tokenizer, answers, info)


def answer_list(checkpoint: str | Path, dataset: Dataset, file: str | Path | None = None) -> Mapping[str, int]:
    """The answer list: the file that was named, else the one that lies with the checkpoint, else the data set's.

    Raises DataError when it can't be read.
    """
    own = Path(file) if file else Path(checkpoint) / "answers.json"
    return read_answer_list(own) if file or own.is_file() else read_answers(dataset)


def _tokenizer_folder(checkpoint: str | Path, otherwise: str) -> Path:
    """The tokenizer that lies with the checkpoint, or the one of params.yaml."""
    own = Path(checkpoint) / "tokenizer"
    return own if own.is_dir() else Path(otherwise)


def _motion_test(params: Params) -> MotionTest | None:
    """Which questions need time; only the made data's wording says so."""
    if params.sample is None:
        return None
    from alpro.data.sample.questions import is_motion_question

    return is_motion_question
