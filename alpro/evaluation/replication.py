"""The paper's figures beside this repository's: `make replicate` evaluates all checkpoints present and fills the table.

It looks for the official checkpoints (`output/downstreams/<task>/public`, `output/pretrain`), then for those that the
parameters name (`evaluate.<task>.checkpoint`, `init.finetune`), all under one recipe. A checkpoint that was evaluated before
with the same weights, annotations and parameters is not evaluated again.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpro import distributed
from alpro.config import Params
from alpro.data.annotations.read import annotation_file
from alpro.errors import CheckpointError, DataError
from alpro.evaluation.official import find_checkpoint, official_preprocessing
from alpro.evaluation.run import checkpoint_digest, run_evaluation
from alpro.files.atomic import atomic_write, sha256
from alpro.files.json_files import read_json, write_json

BEGIN, END = "<!-- replication: written by `make replicate` -->", "<!-- end of replication -->"
TOLERANCE = 1.5  # points: difference of an independent re-run by ALPRO's authors, and R@1's standard error on 1,000 queries
OFFICIAL = Path("output")
RANKING = ("r1", "r5", "r10", "medianR")
ANSWERING = ("overall_acc", "what_acc", "who_acc", "how_acc", "where_acc", "when_acc")
_TYPES = " / ".join(name.removesuffix("_acc") for name in ANSWERING[1:])


@dataclass(frozen=True)
class PaperFigure:
    """A row of the paper's tables: R@1, R@5, R@10, MdR, or accuracy overall and by type (what, who, how, where, when)."""

    title: str
    task: str
    zero_shot: bool
    paper: tuple[float, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the row's numbers."""
        return RANKING if self.task.endswith("_ret") else ANSWERING

    @property
    def judged(self) -> int:
        """Count of the leading numbers that are percentages over the whole split and must be within the tolerance."""
        return 3 if self.metrics is RANKING else 1


# Tables 2, 3 and 4 of the paper; accuracy by question type from the released code's README.
PAPER = (
    PaperFigure("MSRVTT retrieval", "msrvtt_ret", False, (33.9, 60.7, 73.2, 3)),
    PaperFigure("DiDeMo retrieval", "didemo_ret", False, (35.9, 67.5, 78.8, 3)),
    PaperFigure("MSRVTT retrieval, zero-shot", "msrvtt_ret", True, (24.1, 44.7, 55.4, 8)),
    PaperFigure("DiDeMo retrieval, zero-shot", "didemo_ret", True, (23.8, 47.3, 57.9, 6)),
    PaperFigure("MSRVTT-QA", "msrvtt_qa", False, (42.12, 36.05, 52.24, 85.67, 42.8, 78.88)),
    PaperFigure("MSVD-QA", "msvd_qa", False, (45.91, 37.02, 58.59, 81.62, 46.43, 72.41)),
)


@dataclass(frozen=True)
class PresentCheckpoint:
    """A checkpoint on disk that belongs to a figure of the paper."""

    figure: PaperFigure
    checkpoint: str  # as given on the command line
    weights: Path  # the file or directory itself
    training: Mapping[str, Any]  # log/args.json of an official training


def present_checkpoints(params: Params, official: Path = OFFICIAL) -> list[PresentCheckpoint]:
    """Return all checkpoints on disk, in the order of the paper's figures; of an official folder the best step, else the last.

    Raises CheckpointError for an official folder with neither.
    """
    checkpoints = []
    for figure in PAPER:
        if figure.zero_shot:
            candidates = [official / "pretrain" / "alpro_pretrained_ckpt.pt", Path(params.init.finetune)]
        else:
            own = params.evaluate.get(figure.task)
            candidates = [official / "downstreams" / figure.task / "public", *([Path(own.checkpoint)] if own else [])]
        for path in dict.fromkeys(candidates):
            if path.suffix in (".yaml", ".yml") or not path.exists():
                continue
            try:
                resolved = find_checkpoint(path)
            except CheckpointError:
                resolved = find_checkpoint(path, "last")
            checkpoints.append(PresentCheckpoint(figure, str(path), resolved.path, resolved.training))
    return checkpoints


def replicate(
    params: Params,
    page: str | Path = "docs/replication.md",
    output: str | Path = "reports/replication",
    official: Path = OFFICIAL,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Evaluate the checkpoints on disk and write the page's table; return its rows. All ranks call it.

    `output` holds each evaluation's record, and results.json, which is updated after every evaluation. Checkpoints of a task
    without data are reported and skipped. Raises DataError for a page without the table's markers.
    """
    output, page = Path(output), Path(page)
    _split_at_table(page)
    results = output / "results.json"
    rows = _read_rows(results)
    for present in present_checkpoints(params, official):
        inputs = _inputs(params, present, say)
        if inputs is None:
            continue
        mark = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        if any(row["mark"] == mark for row in rows):
            say(f"{present.figure.title}: {present.checkpoint} was already evaluated; its row is kept")
            continue
        row = {**_evaluate(params, present, output), "mark": mark}
        rows = [old for old in rows if (old["figure"], old["checkpoint"]) != (row["figure"], row["checkpoint"])] + [row]
        if distributed.rank() == 0:
            write_json(results, rows)
    if distributed.rank() == 0:
        before, after = _split_at_table(page)
        atomic_write(page, f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")
        say(f"{page}: {len({row['figure'] for row in rows})} of {len(PAPER)} figures evaluated; records in {output}")
    distributed.barrier()
    return rows


def _read_rows(results: Path) -> list[dict[str, Any]]:
    """Return the rows of results.json; none if it does not exist. Raises DataError if it is damaged."""
    hint = "delete it to evaluate every checkpoint again"
    rows = read_json(results, DataError, hint) if results.is_file() else []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{results}: not a list of rows; {hint}")
    return rows


def _inputs(params: Params, present: PresentCheckpoint, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Return everything that a row depends on; None, with a message, if settings or data are missing."""
    task, title = present.figure.task, present.figure.title
    settings = (params.zeroshot if present.figure.zero_shot else params.evaluate).get(task)
    if settings is None:
        say(f"{title}: not evaluated: recipe {params.recipe} has no settings for it")
        return None
    dataset = params.datasets[task]
    try:
        annotations = annotation_file(dataset, settings.split)
        if not Path(dataset.videos).is_dir():
            raise DataError(f"{dataset.videos}: no such folder")
    except DataError as error:
        say(f"{title}: {present.checkpoint} not evaluated: its data are missing: {error}")
        return None
    return {
        "figure": present.figure.title,
        "recipe": params.recipe,
        "checkpoint_sha256": checkpoint_digest(present.weights),
        "annotations_sha256": sha256(annotations),
        "evaluate": settings.model_dump(exclude={"checkpoint"}),
        "viewing": params.finetune[task].model_dump(),
        "training": dict(present.training),
    }


def _evaluate(params: Params, present: PresentCheckpoint, output: Path) -> dict[str, Any]:
    figure, task = present.figure, present.figure.task
    training = params.finetune[task].model_copy(update=official_preprocessing(present.training))
    params = params.model_copy(update={"finetune": {**params.finetune, task: training}})
    name = f"{task}{'_zeroshot' if figure.zero_shot else ''}-{hashlib.sha256(present.checkpoint.encode()).hexdigest()[:8]}"
    record = output / name
    summary = run_evaluation(
        params, task, checkpoint=present.weights, record=record, zero_shot=figure.zero_shot, modes=("full",)
    )
    numbers = summary["text2video"] if figure.metrics is RANKING else summary
    spread = summary["ci95"]["text2video"] if figure.metrics is RANKING else summary["ci95"]
    options = f"--zero-shot --record {record} " if figure.zero_shot else ""
    return {
        "figure": figure.title,
        "checkpoint": present.checkpoint,
        "recipe": params.recipe,
        "n": summary["n"],
        "figures": {metric: numbers[metric] for metric in figure.metrics if metric in numbers},
        "ci95": list(spread[figure.metrics[0]]),
        "command": f"alpro evaluate --task {task} --checkpoint {present.checkpoint} {options}--recipe {params.recipe}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def within(figure: PaperFigure, figures: Mapping[str, float]) -> bool:
    """Return True if every percentage over the whole split is within the tolerance of the paper's."""
    judged = zip(figure.metrics[: figure.judged], figure.paper[: figure.judged], strict=True)
    return all(abs(figures[name] - paper) <= TOLERANCE for name, paper in judged)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table: a row per evaluated checkpoint, and a row "not run" for a figure without one."""
    lines = [
        "| figure | paper | this repository | 95 % interval | within 1.5 points | command | date |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure in PAPER:
        title = f"{figure.title}, {'R@1 / R@5 / R@10 / MdR' if figure.metrics is RANKING else 'overall / ' + _TYPES}"
        paper = " / ".join(f"{number:g}" for number in figure.paper)
        evaluated = [row for row in rows if row["figure"] == figure.title]
        for row in evaluated:
            here = " / ".join(f"{row['figures'][m]:.1f}" if m in row["figures"] else "-" for m in figure.metrics)
            low, high = row["ci95"]
            judged = "yes" if within(figure, row["figures"]) else "no"
            lines.append(
                f"| {title} | {paper} | {here} | {low:.1f} to {high:.1f} | {judged} | `{row['command']}` | {row['date']} |"
            )
        if not evaluated:
            lines.append(f"| {title} | {paper} | not run | | | | |")
    return "\n".join(lines)


def _split_at_table(page: Path) -> tuple[str, str]:
    """Return the text before and after the table."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(f"{page}: must hold the two lines {BEGIN} and {END} once; add them where the table belongs")
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]
