"""One fine-tuning with its evaluation, for comparisons over several seeds. Finished ones are kept, so a killed one resumes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import yaml

from alpro.errors import AlproError
from alpro.files.atomic import sha256


def key(raw: dict, init: str) -> str:
    """Return a digest of the parameters and the weights that a comparison starts from."""
    start = Path(init)
    weights = sha256(start / "model.safetensors" if start.is_dir() else start)
    return hashlib.sha256(json.dumps([raw, weights], sort_keys=True).encode()).hexdigest()[:16]


def fine_tune(folder: Path, raw: dict, task: str, init: str, seed: int) -> dict:
    """Fine-tune and evaluate once; return the metrics. The folder keeps the record of the training and of the evaluation."""
    metrics = folder / "evaluation" / "metrics.json"
    if not metrics.exists():
        folder.mkdir(parents=True, exist_ok=True)
        params_file = folder / "params.yaml"
        params_file.write_text(yaml.safe_dump({**raw, "seed": seed}), encoding="utf-8")
        model = folder / "model"
        if not model.exists():
            train = ["train", "finetune", "--task", task, "--init", init, "--output", str(model)]
            _alpro(params_file, [*train, "--record", str(folder / "record"), "--params", str(params_file)])
        evaluate = ["evaluate", "--task", task, "--checkpoint", str(model), "--no-ablations"]
        _alpro(params_file, [*evaluate, "--record", str(folder / "evaluation"), "--params", str(params_file)])
    return json.loads(metrics.read_text(encoding="utf-8"))


def percent(figures: dict, metric: str) -> float:
    """Return the metric of the whole model, in percent. Raises AlproError if the evaluation does not have it."""
    value = figures.get(metric, figures.get("text2video", {}).get(metric))
    if value is None:
        raise AlproError(f"the evaluation has no metric {metric}; it has {', '.join(figures)}")
    return float(value)


def _alpro(params: Path, verb: list[str]) -> None:
    """Run an `alpro` command with these parameters, on as many processes as they say."""
    subprocess.run([sys.executable, "-m", "alpro", "launch", "--params", str(params), "--", *verb], check=True)
