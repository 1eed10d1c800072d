"""The four official inferences: a checkpoint, own or official, on annotations and videos that the command line names.

    evaluate_checkpoint(params, "msrvtt_ret", "output/downstreams/msrvtt_ret/public", step="best",
                        videos="data/msrvtt_ret/videos", annotations="data/msrvtt_ret/txt/test.jsonl")

prints the dictionary that users of the released code know, and writes it as JSON under results_<split>/step_<N>/ with every
query's result, the scores and the arguments. Recipe `official` counts, rounds and breaks ties as the released code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro import distributed
from alpro.config import Dataset, Params
from alpro.data.annotations.read import SPLITS, read_dataset
from alpro.data.batches.unreadable import refuse_unreadable
from alpro.data.media.index import probe_cache_path
from alpro.errors import CheckpointError, ConfigError, nearest
from alpro.evaluation.qa import QAResult
from alpro.evaluation.resume import Workplace
from alpro.evaluation.retrieval import Rerank, RetrievalResult
from alpro.evaluation.run import Viewing, answer_list, checkpoint_digest, evaluate, load_subject
from alpro.evaluation.summary import qa_rows, retrieval_rows
from alpro.files.atomic import atomic_write, new_dir
from alpro.files.json_files import read_json, write_json

STEP = re.compile(r"model_step_(\w+)\.pt$")
OWN = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that was asked for: what to load, which step it is, and where its results belong."""

    path: Path
    step: str
    results: Path | None  # None: nowhere yet; an official output folder holds its own
    training: Mapping[str, Any]  # the arguments that an official training left in log/args.json


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
    state: str | Path = ".state",
    output: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluate, print the official dictionary, write the results; returns the dictionary. All ranks call it.

    `checkpoint`: an official .pt, an official output folder (`ckpt/model_step_N.pt`, of which `step` chooses: best, last or a
    number), or a directory of our own. `against_full`: score all pairs, and say by how much `rerank` changes each figure
    (rerank.json). `features`: folder that keeps encoded videos for later evaluations. A killed one goes
    on from what it left in `state`. What is left out comes from params. Results go to `output`, else into the official
    output folder, else under results/<task>. Raises ConfigError for an unknown task, and as reading files does.
    """
    if task not in params.datasets:
        raise ConfigError(f"--task {task}: recipe {params.recipe} has no such data set{nearest(task, params.datasets)}")
    found = find_checkpoint(checkpoint, step)
    dataset, split = _dataset(params.datasets[task], videos, annotations, params.evaluate[task].split)
    changes = {
        "batch_pairs": batch_size, "rerank": rerank, "rerank_for": rerank_for,
        "features": None if features is None else str(features),
    }  # fmt: skip
    settings = params.evaluate[task].model_copy(update={key: value for key, value in changes.items() if value is not None})
    training = params.finetune[task].model_copy(update=official_viewing(found.training))
    folder = Path(tokenizer) if tokenizer else _tokenizer(found.path, params)
    listed = None if dataset.task == "retrieval" else answer_list(found.path, dataset, answers)
    records = read_dataset(dataset, split)
    refuse_unreadable(records, training.num_frames, training.eval_frames, probe_cache_path(dataset.videos, state))
    subject = load_subject(params, dataset.task, found.path, training.num_frames, folder, listed)
    viewing = Viewing.of(training, subject.model.config.image_size)
    place = Workplace(Path(state) / "evaluate" / f"{task}-by-hand", settings.features)
    if against_full and (settings.rerank is None or dataset.task != "retrieval"):
        raise ConfigError("--against-full compares --rerank K of a retrieval with all pairs: give K")
    asked = settings.model_copy(update={"rerank": None}) if against_full else settings
    result = evaluate(subject, records, viewing, asked, label=task, place=place)
    change = None
    if against_full and isinstance(result, RetrievalResult):
        full, result = result, result.reranked(settings.rerank, settings.rerank_for)
        change = rerank_change(full, result)
    figures = official_figures(result, settings.count_padding)
    if distributed.rank() == 0:
        arguments = {
            "task": task, "recipe": params.recipe, "checkpoint": str(found.path), "step": found.step, "split": split,
            "checkpoint_sha256": checkpoint_digest(found.path), "annotations": dataset.annotations, "videos": dataset.videos,
            "tokenizer": str(folder), "batch_pairs": settings.batch_pairs, "rerank": settings.rerank,
            "rerank_for": settings.rerank_for,
            "round_scores": settings.round_scores, "count_padding": settings.count_padding,
            "num_frames": viewing.num_frames, "frames": viewing.frames_strategy,
            "image_size": viewing.image_size, "max_text_tokens": viewing.max_text_tokens, "processes": distributed.size(),
        }  # fmt: skip
        base = Path(output) if output else found.results or Path("results") / task
        written = base / f"results_{split}" / f"step_{found.step}"
        _write(written, result, figures, arguments, change)
        place.done()
        print(figures)
        if change is not None:
            print(f"re-ranking {settings.rerank} against all pairs: {change['difference']}")
        print(f"results: {written}")
    distributed.barrier()
    return figures


def official_figures(result: RetrievalResult | QAResult, as_released: bool = False) -> dict[str, Any]:
    """The printed dictionary: {'text2video': {'r1': 33.9, ...}, ...} or {'ratios': {...}, 'overall_acc': 42.12, ...}.

    `as_released`: the questions that pad the last batches of this world count twice, and a type without questions has 0.
    """
    if isinstance(result, RetrievalResult):
        return {
            direction: {name: round(value, 3 if name == "meanR" else 2) for name, value in figures.items()}
            for direction, figures in result.metrics().items()
        }
    figures = result.official(distributed.size() if as_released else 1)
    return figures if as_released else {name: value for name, value in figures.items() if name in {*result.metrics()}}


def rerank_change(full: RetrievalResult, reranked: RetrievalResult) -> dict[str, Any]:
    """Figures of the full matrix and of re-ranking, and what re-ranking adds to each (a loss is negative for recalls)."""
    all_pairs, best = full.metrics(), reranked.metrics()
    difference = {
        direction: {name: round(value - all_pairs[direction][name], 6) for name, value in figures.items()}
        for direction, figures in best.items()
    }
    return {"full": all_pairs, "reranked": best, "difference": difference}


def find_checkpoint(checkpoint: str | Path, step: str = "best") -> Found:
    """What `checkpoint` and `step` mean. Raises CheckpointError that names the steps that are there."""
    path = Path(checkpoint)
    if (path / OWN).is_file():
        config = json.loads((path / "config.json").read_text(encoding="utf-8")) if (path / "config.json").is_file() else {}
        return _of_step(step, Found(path, str(config.get("trained", {}).get("step", "best")), None, {}))
    if path.is_file():
        match = STEP.search(path.name)
        folder = path.parent.parent if path.parent.name == "ckpt" else None
        return _of_step(step, Found(path, match[1] if match else path.stem, folder, _training_arguments(folder)))
    folder = path / "ckpt"
    if not folder.is_dir():
        raise CheckpointError(
            f"{path}: no checkpoint; give a .pt file, a directory with {OWN}, or an output folder with ckpt/model_step_N.pt"
        )
    steps = {match[1]: file for file in sorted(folder.iterdir()) if (match := STEP.search(file.name))}
    numbered = sorted((name for name in steps if name.isdigit()), key=int)
    chosen = numbered[-1] if step == "last" and numbered else step
    if chosen not in steps:
        there = ", ".join([*numbered, *sorted(set(steps) - set(numbered))])
        raise CheckpointError(f"{folder}: no model_step_{chosen}.pt; --step can be {there}" if there else f"{folder}: is empty")
    return Found(steps[chosen], chosen, path, _training_arguments(path))


def _of_step(step: str, found: Found) -> Found:
    """A checkpoint of one step, when that is the step that was asked for. Raises CheckpointError otherwise."""
    if step.isdigit() and step != found.step:
        raise CheckpointError(f"{found.path}: is of step {found.step}, not {step}; name the output folder, or leave --step out")
    return found


def _training_arguments(folder: Path | None) -> Mapping[str, Any]:
    """log/args.json of an official output folder."""
    path = folder / "log" / "args.json" if folder else None
    if path is None or not path.is_file():
        return {}
    arguments = read_json(path, CheckpointError, "copy the output folder again")
    return arguments if isinstance(arguments, dict) else {}


def official_viewing(training: Mapping[str, Any]) -> dict[str, Any]:
    """Frames and text tokens as an official training had them; its `rand` and `uniform` are evaluated as the recipe says."""
    names = {"num_frm": "num_frames", "max_txt_len": "max_text_tokens"}
    found: dict[str, Any] = {own: training[name] for name, own in names.items() if isinstance(training.get(name), int)}
    return found | ({"eval_frames": "headtail"} if training.get("frm_sampling_strategy") == "headtail" else {})


def _dataset(dataset: Dataset, videos: str | Path | None, annotations: str | Path | None, split: str) -> tuple[Dataset, str]:
    """The data set with the named folders, and the split that the annotation file's name says."""
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


def _tokenizer(checkpoint: Path, params: Params) -> Path:
    """The tokenizer that lies with the checkpoint, where the released code keeps BERT's, or params.yaml's."""
    places = [checkpoint / "tokenizer", Path(params.text.tokenizer), Path("ext/bert-base-uncased")]
    return next((place for place in places if place.is_dir()), places[1])


def _write(
    folder: Path,
    result: RetrievalResult | QAResult,
    figures: Mapping[str, Any],
    arguments: Mapping[str, Any],
    change: Mapping[str, Any] | None,
) -> None:
    with new_dir(folder) as made:
        if change is not None:
            write_json(made / "rerank.json", change)
        write_json(made / "metrics.json", figures)
        write_json(made / "args.json", arguments)
        if isinstance(result, RetrievalResult):
            write_json(made / "results.json", retrieval_rows({"full": result}))
            scores = [[round(score, 6) if score == score else None for score in row] for row in result.scores.tolist()]
            content = {"texts": result.text_ids, "videos": result.video_ids, "scores": scores}  # null: left out by re-ranking
            atomic_write(made / "scores.json", json.dumps(content) + "\n")  # a million numbers: no line for each
        else:
            write_json(made / "results.json", qa_rows({"full": result}))
