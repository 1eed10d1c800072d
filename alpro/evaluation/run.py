"""Evaluation of a checkpoint on a dataset's split, and the stage's record: metrics, predictions, plots.

    run_evaluation(params, "msrvtt_ret", checkpoint="models/sample/finetune/msrvtt_ret", record="reports/evaluate/msrvtt_ret")

The record holds no times and no run names: the same data, checkpoint and parameters give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro import distributed
from alpro.checkpoints.initial_weights import load_start
from alpro.checkpoints.layout import WEIGHTS
from alpro.checkpoints.load import load_model
from alpro.config import Dataset, Evaluation, Model, Params, Sample
from alpro.data.annotations.read import annotation_file, read_answer_list, read_answers, read_dataset
from alpro.data.annotations.records import Record
from alpro.data.batches.frame_cache import open_frame_cache
from alpro.data.batches.unreadable import refuse_unreadable
from alpro.data.media.index import probe_cache_path
from alpro.data.text.tokenizer import load_tokenizer
from alpro.errors import ConfigError, nearest
from alpro.evaluation.clips import VIDEO_MODES, Preprocessing, VideoMode
from alpro.evaluation.progress import evaluation_progress
from alpro.evaluation.qa import QAResult, evaluate_qa
from alpro.evaluation.resume import ResumeState
from alpro.evaluation.retrieval import Ranking, RetrievalResult, evaluate_retrieval
from alpro.evaluation.summary import MotionTest, qa_rows, retrieval_rows, summarise_qa, summarise_retrieval
from alpro.files.atomic import atomic_write, sha256
from alpro.files.json_files import write_json
from alpro.files.outputs import check_output, new_dir
from alpro.files.state import state_folder
from alpro.models import Alpro, build_model


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """The model under evaluation with its tokenizer and, for question answering, its answer list."""

    model: Alpro
    tokenizer: Any
    answers: Mapping[str, int] | None


def run_evaluation(
    params: Params,
    task: str,
    *,
    checkpoint: str | Path,
    record: str | Path,
    zero_shot: bool = False,
    modes: Sequence[VideoMode] = VIDEO_MODES,
    state: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluate a dataset's split under params.yaml, with its ablations, and write the record; return its metrics.

    All ranks call it; rank 0 writes. `checkpoint` is a checkpoint or, for an untrained model, a file of recipes/init. A killed
    evaluation resumes from what it left in `state`. Raises ConfigError for a task without settings, and the errors of reading
    data and checkpoints.
    """
    check_output(record, checkpoint)
    settings = _settings(params.zeroshot if zero_shot else params.evaluate, task, "zeroshot" if zero_shot else "evaluate")
    dataset, training = params.datasets[task], params.finetune[task]
    records = read_dataset(dataset, settings.split)
    state = state or state_folder()
    refuse_unreadable(records, training.num_frames, training.eval_frames, probe_cache_path(dataset.videos, state))
    tokenizer_folder = _tokenizer_folder(checkpoint, params.text.tokenizer)
    answers = None if dataset.task == "retrieval" else answer_list(checkpoint, dataset)
    bundle = load_bundle(params.model, dataset.task, checkpoint, training.num_frames, tokenizer_folder, answers, params.seed)
    cache, decoder = open_frame_cache(params.loader), params.loader.decoder
    preprocessing = Preprocessing.from_training(training, bundle.model.config.image_size, cache, decoder)
    resume = ResumeState(Path(state) / "evaluate" / Path(record).name, settings.features)
    results = {mode: evaluate(bundle, records, preprocessing, settings, mode, f"{task} {mode}", resume) for mode in modes}
    if dataset.task == "retrieval":
        summary, rows = summarise_retrieval(results, settings.bootstrap), retrieval_rows(results)  # type: ignore[arg-type]
    else:
        is_motion = _motion_test(params.sample)
        summary = summarise_qa(results, settings.bootstrap, is_motion)  # type: ignore[arg-type]
        rows = qa_rows(results, is_motion)  # type: ignore[arg-type]
    inputs = {
        "recipe": params.recipe,
        "task": task,
        "zero_shot": zero_shot,
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": checkpoint_digest(checkpoint),
        "annotations": str(annotation_file(dataset, settings.split)),
        "annotations_sha256": sha256(annotation_file(dataset, settings.split)),
        "videos": dataset.videos,
        "evaluate": settings.model_dump(exclude={"checkpoint", "features"}),
        "num_frames": preprocessing.num_frames,
        "image_size": preprocessing.image_size,
        "max_text_tokens": preprocessing.max_text_tokens,
        "frames": preprocessing.frames_strategy,
        "precision": preprocessing.precision,
        "decode_size": preprocessing.decode_size,
        "decoder": preprocessing.decoder,
        "model": bundle.model.config.model_dump(),
        "looks": list(modes),
    }
    if distributed.rank() == 0:
        write_record(Path(record), inputs, summary, rows, results)
        resume.done()
    distributed.barrier()
    return rounded(summary)


def evaluate(
    bundle: ModelBundle,
    records: Sequence[Record],
    preprocessing: Preprocessing,
    settings: Evaluation,
    mode: VideoMode = "full",
    label: str = "",
    resume: ResumeState | None = None,
) -> RetrievalResult | QAResult:
    """Run one evaluation of a model, with its progress shown under `label` and finished work saved in `resume`."""
    model, tokenizer, answers = bundle.model, bundle.tokenizer, bundle.answers
    with evaluation_progress(label) as progress:
        options: dict[str, Any] = {"mode": mode, "batch_pairs": settings.batch_pairs, "progress": progress, "resume": resume}
        if answers is not None:
            return evaluate_qa(model, records, tokenizer, answers, preprocessing, **options)  # type: ignore[arg-type]
        ranking = Ranking(settings.rerank, settings.rerank_for, settings.round_scores)
        return evaluate_retrieval(model, records, tokenizer, preprocessing, ranking=ranking, **options)


def write_record(
    folder: Path,
    inputs: Mapping[str, Any],
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    results: Mapping[VideoMode, RetrievalResult | QAResult],
) -> None:
    """Write params.json, metrics.json, headline.json, predictions.jsonl and plots/ into a folder, atomically."""
    from alpro.evaluation.plots import plot_qa, plot_retrieval

    with new_dir(folder) as temporary:
        write_json(temporary / "params.json", inputs)
        write_json(temporary / "metrics.json", rounded(summary))
        write_json(temporary / "headline.json", rounded(headline(inputs["task"], inputs["zero_shot"], summary)))
        write_rows(temporary / "predictions.jsonl", rows)
        if isinstance(results["full"], RetrievalResult):
            plot_retrieval(results, temporary / "plots")  # type: ignore[arg-type]
        else:
            plot_qa(results, summary, temporary / "plots")  # type: ignore[arg-type]


def headline(task: str, zero_shot: bool, summary: Mapping[str, Any]) -> dict[str, float]:
    """Return R@1 or the accuracy in percent under the task's name, for DVC's tables: {"msvd_qa": 56.2}, {"zs_msrvtt": 71.0}.

    The names are short and unlike all others, because `dvc exp show` has a column for each.
    """
    value = summary["text2video"]["r1"] if "text2video" in summary else summary["overall_acc"]
    return {f"zs_{task.removesuffix('_ret')}" if zero_shot else task: value}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object per line."""
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def rounded(value: Any, decimals: int = 6) -> Any:
    """Return the value with every float rounded, also in nested mappings and lists."""
    if isinstance(value, Mapping):
        return {key: rounded(inner, decimals) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(inner, decimals) for inner in value]
    return round(value, decimals) if isinstance(value, float) else value


def checkpoint_digest(checkpoint: str | Path) -> str:
    """Return the SHA-256 of a checkpoint's weights: of model.safetensors in a directory, else of the file."""
    path = Path(checkpoint)
    return sha256(path / WEIGHTS if path.is_dir() else path)


def _settings(section: Mapping[str, Evaluation], task: str, name: str) -> Evaluation:
    """Return a task's settings in a section of params.yaml. Raises ConfigError with the section's name if it has none."""
    if task not in section:
        raise ConfigError(f"{name}.{task}: not in params.yaml{nearest(task, section)}")
    return section[task]


def load_bundle(
    sizes: Model,
    kind: str,
    checkpoint: str | Path,
    frames: int,
    tokenizer_folder: Path,
    answers: Mapping[str, int] | None,
    seed: int,
) -> ModelBundle:
    """Load a checkpoint's model for a task (retrieval or qa) on this process's device, with its tokenizer.

    If `checkpoint` is a file of recipes/init, the model is untrained, with these sizes and weights drawn from the seed.
    """
    if Path(checkpoint).suffix in (".yaml", ".yml"):
        width = max(answers.values()) + 1 if answers else None
        model = build_model(kind, num_frames=frames, config=sizes, num_answers=width, seed=seed)
        load_start(model, checkpoint, seed)
    else:
        model, _, _ = load_model(checkpoint, kind, num_frames=frames)
    tokenizer = load_tokenizer(tokenizer_folder, vocab_size=model.config.vocab_size)
    return ModelBundle(model.to(distributed.device()), tokenizer, answers)


def answer_list(checkpoint: str | Path, dataset: Dataset, file: str | Path | None = None) -> Mapping[str, int]:
    """Return the label of each answer: from `file` if given, else from the checkpoint's answers.json, else the dataset's.

    Raises DataError if the list can't be read.
    """
    path = Path(file) if file else Path(checkpoint) / "answers.json"
    return read_answer_list(path) if file or path.exists() else read_answers(dataset)


def _tokenizer_folder(checkpoint: str | Path, default: str) -> Path:
    """Return the checkpoint's tokenizer folder, or the default (params.yaml's) if it has none."""
    folder = Path(checkpoint) / "tokenizer"
    return folder if folder.is_dir() else Path(default)


def _motion_test(sample: Sample | None) -> MotionTest | None:
    """Return the test for questions that need motion; only the synthetic sample's wording allows one."""
    if sample is None:
        return None
    from alpro.data.sample.questions import is_motion_question

    return is_motion_question
