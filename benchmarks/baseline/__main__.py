"""Benefit of pre-training: fine-tunes every task from the pre-trained model and from scratch, over several seeds.

    make baseline            # benchmarks/baseline/__main__.py; after `make repro`

Writes benchmarks/baseline.json, which the report shows. Finished trainings are kept in .state/baseline, so a killed comparison
resumes. Another params.yaml or another pre-trained model starts from the beginning.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import yaml

from alpro.config import Params, load
from alpro.errors import AlproError
from alpro.files.atomic import sha256
from alpro.files.json_files import write_json
from alpro.files.state import state_folder

OUTPUT = Path("benchmarks/baseline.json")
WORK = state_folder() / "baseline"
METRICS = {"retrieval": "r1", "qa": "overall_acc"}
SCRATCH = "recipes/init/scratch.yaml"


def compare(params: Params, raw: dict, seeds: list[int]) -> dict:
    """Run both arms of every task and seed; return {task: {metric, pretrained: [...], scratch: [...]}}, in percent."""
    work = WORK / _key(params, raw)
    tasks = {}
    for task, dataset in params.datasets.items():
        metric = METRICS[dataset.task]
        arms: dict[str, list[float]] = {}
        for arm, init in (("pretrained", params.init.finetune), ("scratch", SCRATCH)):
            arms[arm] = []
            for seed in seeds:
                figures = _run(work / task / f"{arm}-{seed}", raw, task, init, seed)
                arms[arm].append(_percent(figures, metric))
                print(f"{task} {arm} seed {seed}: {metric} {arms[arm][-1]}", flush=True)
        tasks[task] = {"metric": metric, **arms}
    return tasks


def _key(params: Params, raw: dict) -> str:
    """Return a digest of the parameters and the pre-trained weights."""
    start = Path(params.init.finetune)
    weights = sha256(start / "model.safetensors" if start.is_dir() else start)
    return hashlib.sha256(json.dumps([raw, weights], sort_keys=True).encode()).hexdigest()[:16]


def _run(folder: Path, raw: dict, task: str, init: str, seed: int) -> dict:
    """Fine-tune and evaluate once; return the metrics."""
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


def _alpro(params: Path, verb: list[str]) -> None:
    """Run an `alpro` command with these parameters, on as many processes as they say."""
    subprocess.run([sys.executable, "-m", "alpro", "launch", "--params", str(params), "--", *verb], check=True)


def _percent(figures: dict, metric: str) -> float:
    """Return the metric of the whole model, in percent. Raises AlproError if the evaluation does not have it."""
    value = figures.get(metric, figures.get("text2video", {}).get(metric))
    if value is None:
        raise AlproError(f"the evaluation has no metric {metric}; it has {', '.join(figures)}")
    return float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare pre-training with training from scratch.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    seeds = parser.parse_args().seeds
    params = load()
    raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    tasks = compare(params, raw, seeds)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    write_json(OUTPUT, {"command": "make baseline", "date": date, "recipe": params.recipe, "seeds": seeds, "tasks": tasks})
    print(f"written to {OUTPUT}")


if __name__ == "__main__":
    main()
