"""A training's record, `reports/<stage>`: what it was given and how it went; no times and no names of runs.

params.json (parameters, digests of all inputs, environment), history.jsonl (a line for each logged step and validation),
curves.csv (the training lines, for DVC's plots) and metrics.json (the final figures).
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

from alpro.files.atomic import atomic_write, new_dir
from alpro.files.json_files import write_json
from alpro.training.log import Row
from alpro.training.task import Best


def write_record(folder: Path, given: Mapping[str, Any], history: Sequence[Row], best: Best) -> None:
    """Write the record, as a whole or not at all."""
    with new_dir(folder) as made:
        write_json(made / "params.json", given)
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in history)
        atomic_write(made / "history.jsonl", "".join(lines))
        atomic_write(made / "curves.csv", curves([row for row in history if row["split"] == "train"]))
        write_json(made / "metrics.json", final_figures(history, best))


def curves(rows: Sequence[Row]) -> str:
    """Training rows as a table; what a row does not have stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "split"))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def final_figures(history: Sequence[Row], best: Best) -> dict[str, Any]:
    """The chosen step with its validation, and the last line of the training."""
    last = next((row for row in reversed(history) if row["split"] == "train"), {})
    shown = {name: value for name, value in last.items() if name not in ("epoch", "split", "lr", "grad_norm", "step")}
    return {"best_step": best.step, "steps": last.get("step", best.step), "train": shown, "val": best.metrics}


def environment(device: torch.device) -> dict[str, str]:
    """What the numbers may depend on besides parameters and data."""
    versions = {}
    for package in ("torch", "transformers", "timm", "numpy", "decord", "horovod"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "none"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"python": platform.python_version(), **versions, "device": f"{device.type} {name}"}
