"""The paper's figures beside what checkpoints give here: `make replicate` evaluates all that are present and fills the README.

Looked for are the official ones (`output/downstreams/<task>/public`, `output/pretrain`), then those that the parameters name
(`evaluate.<task>.checkpoint`, `init.finetune`), all under one recipe. What was evaluated already, with the same weights,
annotations and parameters, is not evaluated again.
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
from alpro.evaluation.official import find_checkpoint, official_viewing
from alpro.evaluation.run import checkpoint_digest, run_evaluation
from alpro.files.atomic import atomic_write, sha256
from alpro.files.json_files import write_json

BEGIN, END = "<!-- replication: written by `make replicate` -->", "<!-- end of replication -->"
TOLERANCE = 1.5  # points: what an independent re-run by ALPRO's authors differs by, and R@1's standard error on 1,000 queries
OFFICIAL = Path("output")
RANKING = ("r1", "r5", "r10", "medianR")
ANSWERING = ("overall_acc", "what_acc", "who_acc", "how_acc", "where_acc", "when_acc")


@dataclass(frozen=True)
class Figure:
    """A row of the paper's tables: R@1, R@5, R@10, MdR, or accuracy overall and by type (what, who, how, where, when)."""

    title: str
    task: str
    zero_shot: bool
    paper: tuple[float, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of its numbers."""
        return RANKING if self.task.endswith("_ret") else ANSWERING

    @property
    def judged(self) -> int:
        """How many of its numbers are percentages over the whole split, held to the tolerance."""
        return 3 if self.metrics is RANKING else 1


# tables 2, 3 and 4 of the paper; question answering by type from the released code's README
PAPER = (
    Figure("MSRVTT retrieval", "msrvtt_ret", False, (33.9, 60.7, 73.2, 3)),
    Figure("DiDeMo retrieval", "didemo_ret", False, (35.9, 67.5, 78.8, 3)),
    Figure("MSRVTT retrieval, zero-shot", "msrvtt_ret", True, (24.1, 44.7, 55.4, 8)),
    Figure("DiDeMo retrieval, zero-shot", "didemo_ret", True, (23.8, 47.3, 57.9, 6)),
    Figure("MSRVTT-QA", "msrvtt_qa", False, (42.12, 36.05, 52.24, 85.67, 42.8, 78.88)),
    Figure("MSVD-QA", "msvd_qa", False, (45.91, 37.02, 58.59, 81.62, 46.43, 72.41)),
)


@dataclass(frozen=True)
class Subject:
    """A checkpoint that is present for a figure."""

    figure: Figure
    checkpoint: str  # as a user would name it
    weights: Path  # the file or directory itself
    training: Mapping[str, Any]  # arguments that an official training left beside it


def present(params: Params, official: Path = OFFICIAL) -> list[Subject]:
    """Every checkpoint that is there, in the order of the paper's figures; of an official folder the best step, else the last.

    Raises CheckpointError for a folder that holds no readable choice.
    """
    found = []
    for figure in PAPER:
        if figure.zero_shot:
            places = [official / "pretrain" / "alpro_pretrained_ckpt.pt", Path(params.init.finetune)]
        else:
            own = params.evaluate.get(figure.task)
            places = [official / "downstreams" / figure.task / "public", *([Path(own.checkpoint)] if own else [])]
        for place in dict.fromkeys(places):
            if place.suffix in (".yaml", ".yml") or not place.exists():
                continue
            try:
                chosen = find_checkpoint(place)
            except CheckpointError:
                chosen = find_checkpoint(place, "last")
            found.append(Subject(figure, str(place), chosen.path, chosen.training))
    return found


def replicate(
    params: Params,
    readme: str | Path = "README.md",
    output: str | Path = "reports/replication",
    official: Path = OFFICIAL,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Evaluate what is present and write the README's table; returns its rows. All ranks call it.

    `output` keeps each evaluation's record and results.json, to which every one is added as it ends. Without the data of a
    task its checkpoints are not evaluated, and said so. Raises DataError for a README without the table's markers.
    """
    output, readme = Path(output), Path(readme)
    _around(readme)
    results = output / "results.json"
    rows: list[dict[str, Any]] = json.loads(results.read_text()) if results.is_file() else []
    for subject in present(params, official):
        given = _given(params, subject, say)
        if given is None:
            continue
        mark = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
        if any(row["mark"] == mark for row in rows):
            say(f"{subject.figure.title}: {subject.checkpoint} was evaluated already")
            continue
        row = {**_evaluate(params, subject, output), "mark": mark}
        rows = [old for old in rows if (old["figure"], old["checkpoint"]) != (row["figure"], row["checkpoint"])] + [row]
        if distributed.rank() == 0:
            write_json(results, rows)
    if distributed.rank() == 0:
        before, after = _around(readme)
        atomic_write(readme, f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")
        say(f"{readme}: {len({row['figure'] for row in rows})} of {len(PAPER)} figures were run; records in {output}")
    distributed.barrier()
    return rows


def _given(params: Params, subject: Subject, say: Callable[[str], None]) -> dict[str, Any] | None:
    """All that a row depends on; None, with a word why, where the data are missing."""
    task = subject.figure.task
    settings = (params.zeroshot if subject.figure.zero_shot else params.evaluate).get(task)
    if settings is None:
        say(f"{subject.figure.title}: not run, as recipe {params.recipe} has no settings for it")
        return None
    dataset = params.datasets[task]
    try:
        annotations = annotation_file(dataset, settings.split)
        if not Path(dataset.videos).is_dir():
            raise DataError(f"{dataset.videos}: no such folder")
    except DataError as error:
        say(f"{subject.figure.title}: {subject.checkpoint} is there, but its data are not: {error}")
        return None
    return {
        "figure": subject.figure.title,
        "recipe": params.recipe,
        "checkpoint_sha256": checkpoint_digest(subject.weights),
        "annotations_sha256": sha256(annotations),
        "evaluate": settings.model_dump(exclude={"checkpoint"}),
        "viewing": params.finetune[task].model_dump(),
        "training": dict(subject.training),
    }


def _evaluate(params: Params, subject: Subject, output: Path) -> dict[str, Any]:
    figure, task = subject.figure, subject.figure.task
    training = params.finetune[task].model_copy(update=official_viewing(subject.training))
    params = params.model_copy(update={"finetune": {**params.finetune, task: training}})
    name = f"{task}{'_zeroshot' if figure.zero_shot else ''}-{hashlib.sha256(subject.checkpoint.encode()).hexdigest()[:8]}"
    record = output / name
    summary = run_evaluation(
        params, task, checkpoint=subject.weights, record=record, zero_shot=figure.zero_shot, looks=("full",)
    )
    numbers = summary["text2video"] if figure.metrics is RANKING else summary
    spread = summary["ci95"]["text2video"] if figure.metrics is RANKING else summary["ci95"]
    options = f"--zero-shot --record {record} " if figure.zero_shot else ""
    return {
        "figure": figure.title,
        "checkpoint": subject.checkpoint,
        "recipe": params.recipe,
        "n": summary["n"],
        "figures": {metric: numbers[metric] for metric in figure.metrics if metric in numbers},
        "ci95": list(spread[figure.metrics[0]]),
        "command": f"alpro evaluate --task {task} --checkpoint {subject.checkpoint} {options}--recipe {params.recipe}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def within(figure: Figure, figures: Mapping[str, float]) -> bool:
    """Whether every percentage over the whole split is within the tolerance of the paper's."""
    judged = zip(figure.metrics[: figure.judged], figure.paper[: figure.judged], strict=True)
    return all(abs(figures[name] - paper) <= TOLERANCE for name, paper in judged)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The README's table: a row for each checkpoint of a figure, and one that says so for a figure that was not run."""
    lines = [
        "| figure | paper | this repository | 95 % interval | within 1.5 points | command | date |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure in PAPER:
        title = f"{figure.title}, {'R@1 / R@5 / R@10 / MdR' if figure.metrics is RANKING else 'overall / ' + _TYPES}"
        paper = " / ".join(f"{number:g}" for number in figure.paper)
        of_it = [row for row in rows if row["figure"] == figure.title]
        for row in of_it:
            here = " / ".join(f"{row['figures'][m]:.1f}" if m in row["figures"] else "-" for m in figure.metrics)
            low, high = row["ci95"]
            judged = "yes" if within(figure, row["figures"]) else "no"
            lines.append(
                f"| {title} | {paper} | {here} | {low:.1f} to {high:.1f} | {judged} | `{row['command']}` | {row['date']} |"
            )
        if not of_it:
            lines.append(f"| {title} | {paper} | not run | | | | |")
    return "\n".join(lines)


_TYPES = " / ".join(name.removesuffix("_acc") for name in ANSWERING[1:])


def _around(readme: Path) -> tuple[str, str]:
    """What stands before and after the table."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(f"{readme}: must hold the two lines {BEGIN} and {END} once, the table goes between them")
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]
