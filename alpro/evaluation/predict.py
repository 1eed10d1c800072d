"""`alpro predict`: predictions without metrics, for test splits whose answers are hidden.

    predict(params, "msvd_qa", "models/sample/finetune/msvd_qa", annotations="hidden.jsonl", output="answers.jsonl")

Each row of the annotation file gives one row of predictions. They equal those of `alpro evaluate` on the same rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alpro import distributed
from alpro.config import Params
from alpro.data.annotations.queries import Queries, read_queries
from alpro.data.batches.unreadable import refuse_unreadable
from alpro.data.media.index import probe_cache_path
from alpro.errors import OutputError
from alpro.evaluation.clips import Preprocessing
from alpro.evaluation.official import (
    check_arguments,
    find_checkpoint,
    official_preprocessing,
    override_settings,
    tokenizer_folder_of,
)
from alpro.evaluation.qa import QAResult
from alpro.evaluation.resume import ResumeState
from alpro.evaluation.retrieval import RetrievalResult
from alpro.evaluation.run import answer_list, evaluate, load_bundle, rounded
from alpro.files.atomic import atomic_write
from alpro.files.outputs import check_file
from alpro.files.state import state_folder

Rows = list[dict[str, Any]]
COUNT = 10  # videos for each caption


def predict(
    params: Params,
    task: str,
    checkpoint: str | Path,
    *,
    annotations: str | Path,
    output: str | Path,
    step: str = "best",
    videos: str | Path | None = None,
    answers: str | Path | None = None,
    tokenizer: str | Path | None = None,
    batch_size: int | None = None,
    rerank: int | None = None,
    count: int | None = None,
    replace: bool = False,
    state: str | Path | None = None,
) -> Rows:
    """Write a prediction for each question or caption of a file; return them. All ranks call it, and rank 0 writes.

    Questions: `answer`, its `probability` and the five likeliest answers (`top`). Captions: the `count` (10) best videos
    with their scores (`top`), None for a score that `rerank` left out. `output` is a .jsonl or .csv file; with `replace` it
    may exist. Other arguments are those of `evaluate_checkpoint`. A killed run resumes from what it left in `state`. Raises
    ConfigError for an unknown task or an argument that its kind does not use, OutputError for an unusable output, and the
    errors of reading the files.
    """
    check_arguments(params, task, rerank=rerank, count=count, answers=answers)
    dataset = params.datasets[task]
    if Path(output).suffix.lower() not in WRITERS:
        raise OutputError(f"{output}: must be a {' or '.join(WRITERS)} file")
    target = check_file(output, replace, annotations, checkpoint)
    resolved = find_checkpoint(checkpoint, step)
    dataset = dataset if videos is None else dataset.model_copy(update={"videos": str(videos)})
    settings = override_settings(params.evaluate[task], batch_pairs=batch_size, rerank=rerank)
    training = params.finetune[task].model_copy(update=official_preprocessing(resolved.training))
    folder = Path(tokenizer) if tokenizer else tokenizer_folder_of(resolved.path, params.text.tokenizer)
    labels = None if dataset.task == "retrieval" else answer_list(resolved.path, dataset, answers)
    state = state or state_folder()
    queries = read_queries(dataset, Path(annotations))
    refuse_unreadable(queries.records, training.num_frames, training.eval_frames, probe_cache_path(dataset.videos, state))
    bundle = load_bundle(params.model, dataset.task, resolved.path, training.num_frames, folder, labels, params.seed)
    preprocessing = Preprocessing.from_training(training, bundle.model.config.image_size)
    resume = ResumeState(Path(state) / "evaluate" / f"{task}-predict", settings.features)
    result = evaluate(bundle, queries.records, preprocessing, settings, label=f"{task} predict", resume=resume)
    rows = rounded(answer_rows(result) if isinstance(result, QAResult) else ranking_rows(result, queries, count or COUNT))
    if distributed.rank() == 0:
        atomic_write(target, WRITERS[target.suffix.lower()](rows))
        resume.done()
        print(f"{output}: {len(rows)} predictions")
    distributed.barrier()
    return rows


def answer_rows(result: QAResult) -> Rows:
    """Return a row for each question, in the order of the file; `id` is its row there, from 0."""
    return [
        {
            "id": p.id, "video": p.video, "question": p.question, "answer": p.predicted, "probability": p.top[0][1],
            "top": [list(answer) for answer in p.top],
        }
        for p in result.predictions
    ]  # fmt: skip


def ranking_rows(result: RetrievalResult, queries: Queries, count: int) -> Rows:
    """Return a row for each caption, in the order of the file, with its `count` best videos and their scores."""
    rows: Rows = []
    for text, text_id in enumerate(result.text_ids):
        best = np.argsort(-result.text_order[text], kind="stable")[:count]
        scores = [float(result.scores[text, video]) for video in best]
        top = [[result.video_ids[v], s if s == s else None] for v, s in zip(best, scores, strict=True)]  # NaN: not scored
        rows.append({"id": queries.rows[text_id], "text": result.texts[text], "top": top})
    return sorted(rows, key=lambda row: row["id"])


# --- writing ----------------------------------------------------------------------------------------------


def _json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with the columns top_1, score_1, top_2, ... in the place of `top`."""
    width = max(len(row["top"]) for row in rows)
    names = [name for name in rows[0] if name != "top"]
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow([*names, *(f"{name}_{n}" for n in range(1, width + 1) for name in ("top", "score"))])
    for row in rows:
        lines.writerow([*(row[name] for name in names), *(cell for pair in row["top"] for cell in pair)])
    return text.getvalue()


WRITERS = {".jsonl": _json_lines, ".csv": _csv}
