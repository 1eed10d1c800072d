"""Benefit of pre-training: fine-tunes every task from the pre-trained model and from scratch, over several seeds.

    make baseline            # benchmarks/baseline/__main__.py; after `make repro`

Writes benchmarks/baseline.json, which the report shows. Finished trainings are kept in .state/baseline, so a killed comparison
resumes. Another params.yaml or another pre-trained model starts from the beginning.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import yaml

from alpro.config import Params, load
from alpro.files.json_files import write_json
from alpro.files.state import state_folder
from benchmarks.baseline.runs import METRICS, fine_tune, key, percent

OUTPUT = Path("benchmarks/baseline.json")
WORK = state_folder() / "baseline"
SCRATCH = "recipes/init/scratch.yaml"


def compare(params: Params, raw: dict, seeds: list[int]) -> dict:
    """Run both arms of every task and seed; return {task: {metric, pretrained: [...], scratch: [...]}}, in percent."""
    work = WORK / key(raw, params.init.finetune)
    tasks = {}
    for task, dataset in params.datasets.items():
        metric = METRICS[dataset.task]
        arms: dict[str, list[float]] = {}
        for arm, init in (("pretrained", params.init.finetune), ("scratch", SCRATCH)):
            arms[arm] = []
            for seed in seeds:
                figures = fine_tune(work / task / f"{arm}-{seed}", raw, task, init, seed)
                arms[arm].append(percent(figures, metric))
                print(f"{task} {arm} seed {seed}: {metric} {arms[arm][-1]}", flush=True)
        tasks[task] = {"metric": metric, **arms}
    return tasks


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
