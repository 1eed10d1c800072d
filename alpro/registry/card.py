"""Model card of a registered version: purpose, training data, metrics, limits, licence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from alpro.errors import TrackingError
from alpro.evaluation.compare import figure
from alpro.files.json_files import read_json_object
from alpro.registry import versions as tag
from alpro.registry.versions import Checkpoint, training_of

if TYPE_CHECKING:
    from alpro.tracking.state import PipelineState

PAPER = "ALPRO, [arXiv 2112.09583](https://arxiv.org/abs/2112.09583)."
PURPOSE = {
    "prompter": "The prompter, which labels video crops with entities during pre-training.",
    "pretrain": "The pre-trained video-language model.",
    "retrieval": "Scores how well a caption matches a video; fine-tuned on {task}.",
    "qa": "Answers questions about a video with one of the answers seen in training; fine-tuned on {task}.",
}
METRICS = ("text2video.r1", "text2video.r5", "text2video.r10", "text2video.medianR", "video2text.r1", "overall_acc")
PAD = "&nbsp;&nbsp;"
SYNTHETIC = "It was trained only on generated videos of moving shapes, so it knows nothing about real videos. "
LIMITS = (
    "It was trained on English texts and sees {frames} frames of a clip, so it misses what happens between them. "
    "It inherits the biases of its training data. It was not evaluated on any data other than the test split above."
)
LICENCE = "BSD-3-Clause for the code. The weights may be used as far as the licences of the training data allow."


def describe_model(checkpoint: Checkpoint) -> str:
    """Return the description of a registered model, one line for all its versions."""
    purpose = PURPOSE.get(checkpoint.stage, "Fine-tuned on {task}.").format(task=checkpoint.task)
    return f"{purpose} {PAPER}"


def describe_version(state: PipelineState, checkpoint: Checkpoint, tags: Mapping[str, str]) -> str:
    """Return the model card as Markdown. Its metrics are those of the evaluation on disk."""
    params, training = state.params, training_of(checkpoint, state.params)
    dataset = params.datasets.get(checkpoint.task)
    purpose = PURPOSE[dataset.task if dataset else checkpoint.stage].format(task=checkpoint.task)
    start = tags.get(tag.PARENT_VERSIONS) or tags.get(tag.START) or "an unknown checkpoint (not in dvc.lock)"
    data = json.loads(tags.get(tag.DATA, "{}"))
    limits = LIMITS.format(frames=training.num_frames)
    files = [f"- `{path}` ({digest})" for path, digest in data.items()] or ["- unknown data (not in dvc.lock)"]
    sections = {
        "Purpose": [f"{purpose} {PAPER}"],
        "Training": [f"Recipe `{params.recipe}`, starting from {start}, on:", "", *files],
        "Metrics, with 95 % confidence intervals": _table(headline_figures(state, checkpoint, tags.get(tag.SHA256))),
        "Limits": [f"{SYNTHETIC if params.sample else ''}{limits}"],
        "Licence": [LICENCE],
    }
    return "\n\n".join(f"### {title}\n\n" + "\n".join(lines) for title, lines in sections.items())


def headline_figures(state: PipelineState, checkpoint: Checkpoint, sha256: str | None) -> dict[str, list[float]]:
    """Return the metrics of the card: name -> value, then the limits of its 95 % interval if there is one.

    Empty if the evaluation on disk is of other weights. Raises TrackingError if it is damaged.
    """
    folder = state.root / "reports" / "evaluate" / checkpoint.task
    hint = f"run `dvc repro evaluate@{checkpoint.task}` again"
    files = (folder / "params.json", folder / "metrics.json")
    params, metrics = (read_json_object(file, TrackingError, hint) if file.is_file() else {} for file in files)
    if not metrics or params.get("checkpoint_sha256") != sha256:
        return {}
    found = {name: figure(metrics, name) for name in METRICS}
    return {name: [value, *(ci95 or ())] for name, (value, ci95) in found.items() if value is not None}


def _table(figures: Mapping[str, list[float]]) -> list[str]:
    """Return the lines of the metrics table."""
    if not figures:
        return ["not evaluated"]
    # MLflow's page has no space between a table's columns, nor below a table: hence the padding, and the headings
    rows = [f"| metric | {PAD}value | {PAD}interval |", "|---|---|---|"]
    for name, (value, *ci95) in figures.items():
        interval = f"{PAD}{ci95[0]:.1f} to {ci95[1]:.1f}" if ci95 else ""
        rows.append(f"| {name} | {PAD}{value:.1f} | {interval} |")
    return rows
