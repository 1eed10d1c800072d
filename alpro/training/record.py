"""Record of a training, in `reports/<stage>`: its inputs and its history, without timings and run names.

params.json (parameters, digests of all inputs, environment), history.jsonl (a line for each logged step and validation),
metrics.json (the final figures). For DVC: headline.json (the number to compare), curves.csv and
validation.csv (the rows of both splits).
"""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from alpro.files.atomic import atomic_write
from alpro.files.json_files import write_json
from alpro.files.outputs import new_dir
from alpro.training.log import Row
from alpro.training.task import Best


def write_record(folder: Path, params: Mapping[str, Any], history: Sequence[Row], best: Best) -> None:
    """Write the record atomically; `params` is the content of params.json."""
    with new_dir(folder) as temporary:
        write_json(temporary / "params.json", params)
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in history)
        atomic_write(temporary / "history.jsonl", "".join(lines))
        for name, split in (("curves.csv", "train"), ("validation.csv", "val")):
            atomic_write(temporary / name, curves([row for row in history if row["split"] == split]))
        write_json(temporary / "metrics.json", final_figures(history, best))
        if params["stage"] in ("prompter", "pretrain"):  # a fine-tuning is compared by its evaluation
            write_json(temporary / "headline.json", headline(params["stage"], params["training"]["select_by"], best))


def curves(rows: Sequence[Row]) -> str:
    """Return rows of one split as CSV; values that a row does not have are empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "split"))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def final_figures(history: Sequence[Row], best: Best) -> dict[str, Any]:
    """Return the best step with its validation, and the last training row."""
    last = next((row for row in reversed(history) if row["split"] == "train"), {})
    figures = {name: value for name, value in last.items() if name not in ("epoch", "split", "lr", "grad_norm", "step")}
    return {"best_step": best.step, "steps": last.get("step", best.step), "train": figures, "val": best.metrics}


def headline(stage: str, select_by: str, best: Best) -> dict[str, float]:
    """Return the best validation by `select_by` under the stage's name, for DVC's tables: {"pretrain": 7.31}."""
    return {stage: round(best.metrics[select_by.removeprefix("-")], 6)}


def environment(device: torch.device) -> dict[str, str]:
    """Return versions and device: the numbers may depend on them too."""
    versions = {}
    for package in ("torch", "transformers", "timm", "numpy", "decord", "av", "torchcodec", "horovod"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "none"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"python": platform.python_version(), **versions, "device": f"{device.type} {name}"}
