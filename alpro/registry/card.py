"""The card of a model version: what it is, what it was trained on, its figures, its limits, its licence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from alpro.registry import versions as tag
from alpro.registry.versions import Checkpoint, training_of

if TYPE_CHECKING:
    from alpro.tracking.state import State

from alpro.evaluation.compare import figure

PAPER = "ALPRO, [arXiv 2112.09583](https://arxiv.org/abs/2112.09583)."


KINDS = {
    "prompter": "The prompter: gives video crops their entity labels in pre-training.",
    "pretrain": "The pre-trained video-language model.",
    "retrieval": "Says how well a caption fits a video; fine-tuned for {task}.",
    "qa": "Answers questions about a video, out of the answers that it was trained on; fine-tuned for {task}.",
}


SHOWN = ("text2video.r1", "text2video.r5", "text2video.r10", "text2video.medianR", "video2text.r1", "overall_acc")


MADE = "Trained on made videos of moving shapes: it knows nothing of the world. "


LICENCE = "**Licence**: BSD-3-Clause for the code; the weights are as free as the data that they were trained on."


LIMITS = (
    "It was trained on English texts, and saw {frames} frames of a clip: what happens between them it can't know. "
    "What biases the data have, it has. Figures on other data than the test split above are not known."
)


def of_model(checkpoint: Checkpoint) -> str:
    """One line about all versions."""
    kind = KINDS.get(checkpoint.stage, "Fine-tuned for {task}.").format(task=checkpoint.task)
    return f"{kind} {PAPER}"


def of_version(state: State, checkpoint: Checkpoint, tags: Mapping[str, str]) -> str:
    """The card, as Markdown; the figures are those of the evaluation that lies on disk."""
    params, training = state.params, training_of(checkpoint, state.params)
    dataset = params.datasets.get(checkpoint.task)
    kind = KINDS[dataset.task if dataset else checkpoint.stage].format(task=checkpoint.task)
    start = tags.get(tag.PARENT) or tags.get(tag.START) or "what dvc.lock does not say"
    data = json.loads(tags.get(tag.DATA, "{}"))
    lines = [f"**What**: {kind} {PAPER}", "", f"**Trained** with recipe `{params.recipe}`, from {start}, on:", ""]
    lines += [f"- `{path}` ({digest})" for path, digest in data.items()] or ["- data that dvc.lock does not name"]
    lines += ["", "**Figures**, with 95 % intervals:", "", *_figures(state, checkpoint, tags.get(tag.SHA256)), ""]
    limits = LIMITS.format(frames=training.num_frames)
    lines += [f"**Limits**: {MADE if params.sample else ''}{limits}", ""]
    return "\n".join(
        [*lines, "**Licence**: BSD-3-Clause for the code; the weights are as free as the data they were trained on."]
    )


def _figures(state: State, checkpoint: Checkpoint, sha256: str | None) -> list[str]:
    """Rows of a table, where the evaluation on disk is of these weights."""
    folder = state.root / "reports" / "evaluate" / checkpoint.task
    files = (folder / "params.json", folder / "metrics.json")
    given, metrics = (json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {} for file in files)
    if not metrics or given.get("checkpoint_sha256") != sha256:
        return ["not evaluated"]
    rows = ["| figure | value | interval |", "|---|---|---|"]
    for name in SHOWN:
        value, ci95 = figure(metrics, name)
        if value is not None:
            rows.append(f"| {name} | {value:.1f} | {f'{ci95[0]:.1f} to {ci95[1]:.1f}' if ci95 else ''} |")
    return rows
