"""The four official evaluations: a checkpoint, own or official, on annotations and videos named on the command line.

    evaluate_checkpoint(params, "msrvtt_ret", "output/downstreams/msrvtt_ret/public", step="best",
                        videos="data/msrvtt_ret/videos", annotations="data/msrvtt_ret/txt/test.jsonl")

prints the released code's dictionary of metrics, and writes it as JSON under results_<split>/step_<N>/ with every query's
result, the scores and the arguments. Recipe `official` counts, rounds and breaks ties as the released code does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro import distributed
from alpro.checkpoints.layout import CONFIG, WEIGHTS
from alpro.config import Dataset, Evaluation, Params
from alpro.data.annotations.read import SPLITS, read_dataset
from alpro.data.annotations.records import Record
from alpro.data.batches.frame_cache import open_frame_cache
from alpro.data.batches.unreadable import refuse_unreadable
from alpro.data.media.index import probe_cache_path
from alpro.errors import CheckpointError, ConfigError, nearest
from alpro.evaluation.clips import Preprocessing
from alpro.evaluation.qa import QAResult
from alpro.evaluation.resume import ResumeState
from alpro.evaluation.retrieval import Rerank, RetrievalResult
from alpro.evaluation.run import ModelBundle, answer_list, checkpoint_digest, evaluate, load_bundle
from alpro.evaluation.summary import qa_rows, retrieval_rows
from alpro.files.atomic import atomic_write
from alpro.files.json_files import read_json_object, write_json
from alpro.files.outputs import check_output, new_dir
from alpro.files.state import state_folder

COPY = "copy the checkpoint again"
UNUSED = {"qa": ("rerank", "rerank_for", "count"), "retrieval": ("answers",)}  # arguments that a kind of task does not use
STEP = re.compile(r"model_step_(\w+)\.pt$")


@dataclass(frozen=True, slots=True)
class ResolvedCheckpoint:
    """A checkpoint that was found: the file or directory to load, its step, and the default folder of its results."""

    path: Path
    step: str
    results: Path | None  # the official output folder that holds the checkpoint, if any
    training: Mapping[str, Any]  # log/args.json of an official training


def evaluate_checkpoint(
    params: Params,
    task: str,
    checkpoint: str | Path,
    *,
    step: str = "best",
    videos: str | Path | None = None,
    annotations: str | Path | None = None,
    answers: str | Path | None = None,
    tokenizer: str | Path | None = None,
    batch_size: int | None = None,
    rerank: int | None = None,
    rerank_for: Rerank | None = None,
    against_full: bool = False,
    features: str | Path | None = None,
    state: str | Path | None = None,
    output: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluate, print the official dictionary, write the results; return the dictionary. All ranks call it.

    `checkpoint`: an official .pt, an official output folder (`ckpt/model_step_N.pt`, of which `step` chooses best, last or a
    number), or a directory of our own. `against_full`: also score all pairs, and report how `rerank` changes each metric
    (rerank.json). `features`: folder that keeps encoded videos for later evaluations. `state`: folder of the resume state.
    Arguments left out come from params. Results go to `output`, else into the official output folder, else under
    results/<task>. Raises ConfigError for an unknown task or an argument that its kind does not use, and the errors of reading
    the files.
    """
    check_arguments(params, task, rerank=rerank, rerank_for=rerank_for, answers=answers)
    resolved = find_checkpoint(checkpoint, step)
    dataset, split = _dataset(params.datasets[task], videos, annotations, params.evaluate[task].split)
    settings = override_settings(
        params.evaluate[task], batch_pairs=batch_size, rerank=rerank, rerank_for=rerank_for,
        features=None if features is None else str(features),
    )  # fmt: skip
    training = params.finetune[task].model_copy(update=official_preprocessing(resolved.training))
    tokenizer_folder = Path(tokenizer) if tokenizer else tokenizer_folder_of(resolved.path, params.text.tokenizer)
    labels = None if dataset.task == "retrieval" else answer_list(resolved.path, dataset, answers)
    folder = _results_folder(Path(output) if output else resolved.results or Path("results") / task, split, resolved.step)
    records, state = read_dataset(dataset, split), state or state_folder()
    refuse_unreadable(records, training.num_frames, training.eval_frames, probe_cache_path(dataset.videos, state))
    bundle = load_bundle(params.model, dataset.task, resolved.path, training.num_frames, tokenizer_folder, labels, params.seed)
    clips = (bundle.model.config.image_size, open_frame_cache(params.loader), params.loader.decoder)
    preprocessing = Preprocessing.from_training(training, *clips)
    resume = ResumeState(Path(state) / "evaluate" / f"{task}-by-hand", settings.features)
    result, change = _evaluate(bundle, records, preprocessing, settings, task, resume, against_full)
    figures = official_figures(result, settings.count_padding)
    if distributed.rank() == 0:
        arguments = {
            "task": task, "recipe": params.recipe, "checkpoint": str(resolved.path), "step": resolved.step, "split": split,
            "checkpoint_sha256": checkpoint_digest(resolved.path), "annotations": dataset.annotations, "videos": dataset.videos,
            "tokenizer": str(tokenizer_folder), **_settings_used(settings, preprocessing),
        }  # fmt: skip
        _write(folder, result, figures, arguments, change)
        resume.done()
        print(figures)
        if change is not None:
            print(f"re-ranking {settings.rerank} against all pairs: {change['difference']}")
        print(f"results: {folder}")
    distributed.barrier()
    return figures


def check_arguments(params: Params, task: str, **arguments: Any) -> None:
    """Raise ConfigError for an unknown task, and for an argument that is given and that evaluations of the task do not use."""
    if task not in params.datasets:
        raise ConfigError(f"--task {task}: recipe {params.recipe} has no such dataset{nearest(task, params.datasets)}")
    kind = params.datasets[task].task
    given = ", ".join(f"--{name.replace('_', '-')}" for name in UNUSED[kind] if arguments.get(name) is not None)
    if given:
        this, other = ("question answering", "retrieval") if kind == "qa" else ("retrieval", "question answering")
        raise ConfigError(f"{given}: for {other} only, but {task} is {this}; run the command again without it")


def _results_folder(base: Path, split: str, step: str) -> Path:
    """Return the folder of the results, as the released code names it. Raises OutputError if it has other files."""
    folder = base / f"results_{split}" / f"step_{step}"
    check_output(folder)
    return folder


def override_settings(settings: Evaluation, **overrides: Any) -> Evaluation:
    """Return the settings with the overrides that are not None."""
    return settings.model_copy(update={key: value for key, value in overrides.items() if value is not None})


def _evaluate(
    bundle: ModelBundle,
    records: Sequence[Record],
    preprocessing: Preprocessing,
    settings: Evaluation,
    task: str,
    resume: ResumeState,
    against_full: bool,
) -> tuple[RetrievalResult | QAResult, dict[str, Any] | None]:
    """Evaluate; return the result and, with `against_full`, the change that re-ranking makes to the full matrix."""
    if not against_full:
        return evaluate(bundle, records, preprocessing, settings, label=task, resume=resume), None
    if settings.rerank is None or bundle.answers is not None:
        raise ConfigError("--against-full compares --rerank K of a retrieval with all pairs: give K")
    all_pairs = settings.model_copy(update={"rerank": None})
    full = evaluate(bundle, records, preprocessing, all_pairs, label=task, resume=resume)
    assert isinstance(full, RetrievalResult)
    reranked = full.reranked(settings.rerank, settings.rerank_for)
    return reranked, rerank_change(full, reranked)


def _settings_used(settings: Evaluation, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the part of args.json that comes from the settings."""
    return {
        "batch_pairs": settings.batch_pairs, "rerank": settings.rerank, "rerank_for": settings.rerank_for,
        "round_scores": settings.round_scores, "count_padding": settings.count_padding,
        "num_frames": preprocessing.num_frames, "frames": preprocessing.frames_strategy,
        "image_size": preprocessing.image_size, "max_text_tokens": preprocessing.max_text_tokens,
        "processes": distributed.size(),
    }  # fmt: skip


def official_figures(result: RetrievalResult | QAResult, as_released: bool = False) -> dict[str, Any]:
    """Return the printed dictionary: {'text2video': {'r1': 33.9, ...}, ...} or {'ratios': {...}, 'overall_acc': 42.12, ...}.

    `as_released`: the questions that pad the last batches of this world size count twice, and a type without questions has 0.
    """
    if isinstance(result, RetrievalResult):
        return {
            direction: {name: round(value, 3 if name == "meanR" else 2) for name, value in figures.items()}
            for direction, figures in result.metrics().items()
        }
    figures = result.official_metrics(distributed.size() if as_released else 1)
    return figures if as_released else {name: value for name, value in figures.items() if name in {*result.metrics()}}


def rerank_change(full: RetrievalResult, reranked: RetrievalResult) -> dict[str, Any]:
    """Return the metrics of the full matrix and of re-ranking, and their differences (a loss of recall is negative)."""
    all_pairs, best = full.metrics(), reranked.metrics()
    difference = {
        direction: {name: round(value - all_pairs[direction][name], 6) for name, value in figures.items()}
        for direction, figures in best.items()
    }
    return {"full": all_pairs, "reranked": best, "difference": difference}


def find_checkpoint(checkpoint: str | Path, step: str = "best") -> ResolvedCheckpoint:
    """Find the checkpoint that `checkpoint` and `step` name. Raises CheckpointError that lists the available steps."""
    path = Path(checkpoint)
    if (path / WEIGHTS).is_file():
        config = read_json_object(path / CONFIG, CheckpointError, COPY) if (path / CONFIG).is_file() else {}
        trained = config.get("trained")
        own_step = str(trained.get("step", "best")) if isinstance(trained, dict) else "best"
        return _check_step(step, ResolvedCheckpoint(path, own_step, None, {}))
    if path.is_file():
        match = STEP.search(path.name)
        folder = path.parent.parent if path.parent.name == "ckpt" else None
        return _check_step(
            step, ResolvedCheckpoint(path, match[1] if match else path.stem, folder, _training_arguments(folder))
        )
    folder = path / "ckpt"
    if not folder.is_dir():
        raise CheckpointError(
            f"{path}: no checkpoint; give a .pt file, a directory with {WEIGHTS}, or an output folder with ckpt/model_step_N.pt"
        )
    files = {match[1]: file for file in sorted(folder.iterdir()) if (match := STEP.search(file.name))}
    numbered = sorted((name for name in files if name.isdigit()), key=int)
    chosen = numbered[-1] if step == "last" and numbered else step
    if chosen not in files:
        available = ", ".join([*numbered, *sorted(set(files) - set(numbered))])
        raise CheckpointError(
            f"{folder}: no model_step_{chosen}.pt; --step can be {available}" if available else f"{folder}: is empty"
        )
    return ResolvedCheckpoint(files[chosen], chosen, path, _training_arguments(path))


def _check_step(step: str, resolved: ResolvedCheckpoint) -> ResolvedCheckpoint:
    """Return a checkpoint of a single step if it is the requested one. Raises CheckpointError otherwise."""
    if step.isdigit() and step != resolved.step:
        raise CheckpointError(
            f"{resolved.path}: is of step {resolved.step}, not {step}; give the output folder, or leave --step out"
        )
    return resolved


def _training_arguments(folder: Path | None) -> Mapping[str, Any]:
    """Read log/args.json of an official output folder; empty if there is none."""
    path = folder / "log" / "args.json" if folder else None
    if path is None or not path.is_file():
        return {}
    return read_json_object(path, CheckpointError, COPY)


def official_preprocessing(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return frames and text tokens of an official training; its `rand` and `uniform` are evaluated as the recipe says."""
    names = {"num_frm": "num_frames", "max_txt_len": "max_text_tokens"}
    changes: dict[str, Any] = {
        ours: training[theirs] for theirs, ours in names.items() if isinstance(training.get(theirs), int)
    }
    return changes | ({"eval_frames": "headtail"} if training.get("frm_sampling_strategy") == "headtail" else {})


def _dataset(dataset: Dataset, videos: str | Path | None, annotations: str | Path | None, split: str) -> tuple[Dataset, str]:
    """Return the dataset with the given folders, and the split that the annotation file's name gives."""
    changes: dict[str, str] = {} if videos is None else {"videos": str(videos)}
    if annotations is not None:
        path = Path(annotations)
        if path.is_dir():
            changes["annotations"] = str(path)
        elif path.stem in SPLITS:
            changes["annotations"], split = str(path.parent), path.stem
        else:
            raise ConfigError(f"--annotations {path}: must be named train, val or test (.jsonl), or be their folder")
    return dataset.model_copy(update=changes), split


def tokenizer_folder_of(checkpoint: Path, default: str) -> Path:
    """Return the first tokenizer folder that exists: the checkpoint's, the default, the released code's BERT."""
    folders = [checkpoint / "tokenizer", Path(default), Path("ext/bert-base-uncased")]
    return next((folder for folder in folders if folder.is_dir()), folders[1])


def _write(
    folder: Path,
    result: RetrievalResult | QAResult,
    figures: Mapping[str, Any],
    arguments: Mapping[str, Any],
    change: Mapping[str, Any] | None,
) -> None:
    with new_dir(folder) as temporary:
        if change is not None:
            write_json(temporary / "rerank.json", change)
        write_json(temporary / "metrics.json", figures)
        write_json(temporary / "args.json", arguments)
        if isinstance(result, RetrievalResult):
            write_json(temporary / "results.json", retrieval_rows({"full": result}))
            # null: not scored, because of re-ranking
            scores = [[round(score, 6) if score == score else None for score in row] for row in result.scores.tolist()]
            content = {"texts": result.text_ids, "videos": result.video_ids, "scores": scores}
            atomic_write(temporary / "scores.json", json.dumps(content) + "\n")  # one line: there may be a million numbers
        else:
            write_json(temporary / "results.json", qa_rows({"full": result}))
