"""Benefit of pre-training: a sweep of DVC experiments over seeds, each with pre-training and from scratch.

    make baseline            # after `make repro` and a commit of dvc.lock; it runs the same experiments as
    dvc exp run --queue -S 'seed=42,43,44' -S 'init.finetune=models/sample/pretrain,recipes/init/scratch.yaml' report
    dvc exp run --run-all && alpro report spread

Writes benchmarks/baseline.json, which the report shows. Only experiments that have no results yet are run, so a killed
comparison continues.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from alpro.config import Params, load
from alpro.errors import AlproError
from alpro.files.json_files import write_json
from alpro.files.state import state_folder
from alpro.lineage.experiments import experiments
from alpro.report.spread import Group, group_by_seed

OUTPUT = Path("benchmarks/baseline.json")
SCRATCH = "recipes/init/scratch.yaml"
START = "init.finetune"
METRICS = {"retrieval": "r1", "qa": "overall_acc"}  # the number of an evaluation's headline.json


def arms(params: Params) -> dict[str, Group]:
    """Return the groups of experiments that have this recipe's parameters but for seed and start, by their start."""
    current = params.model_dump(mode="json", exclude={"seed": True, "init": {"finetune"}})
    shown = []
    for experiment in experiments(Path.cwd()):
        read = Params.model_validate(experiment.params)
        if read.model_dump(mode="json", exclude={"seed": True, "init": {"finetune"}}) == current:
            shown.append(experiment)
    groups = group_by_seed(shown)
    if len(groups) == 1:  # then the start is no parameter in which they differ
        return {shown[0].params["init"]["finetune"]: groups[0]}
    return {str(group.settings[START]): group for group in groups}


def run_missing(params: Params, seeds: Sequence[int]) -> None:
    """Run the experiments of the comparison that have no results yet."""
    done = arms(params)
    missing = [
        (seed, start)
        for start in (params.init.finetune, SCRATCH)
        for seed in seeds
        if start not in done or seed not in done[start].seeds
    ]
    for seed, start in missing:
        name = f"baseline-{'scratch' if start == SCRATCH else 'pretrained'}-{seed}"
        _dvc("exp", "remove", name, check=False)  # one that failed has no results, and its name must be free
        _dvc("exp", "run", "--queue", "-n", name, "-S", f"seed={seed}", "-S", f"{START}={start}", "report")
    if missing:
        _dvc("exp", "run", "--run-all")


def compare(params: Params, seeds: Sequence[int]) -> dict:
    """Return {task: {metric, pretrained: [...], scratch: [...]}} in percent. Raises AlproError if an experiment failed."""
    done = arms(params)
    tasks: dict[str, dict] = {}
    for task, dataset in params.datasets.items():
        tasks[task] = {"metric": METRICS[dataset.task]}
        for arm, start in (("pretrained", params.init.finetune), ("scratch", SCRATCH)):
            values = done[start].values.get(task, {}) if start in done else {}
            if lacking := [str(seed) for seed in seeds if seed not in values]:
                raise AlproError(f"{task} {arm}: no result for seed {', '.join(lacking)}; see `dvc queue status`")
            tasks[task][arm] = [values[seed] for seed in seeds]
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare pre-training with training from scratch.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    seeds = parser.parse_args().seeds
    params = load()
    run_missing(params, seeds)
    tasks = compare(params, seeds)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    write_json(OUTPUT, {"command": "make baseline", "date": date, "recipe": params.recipe, "seeds": seeds, "tasks": tasks})
    print(f"written to {OUTPUT}")


def _dvc(*words: str, check: bool = True) -> None:
    quiet = {} if check else {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # DVC runs each experiment in a folder of its own: one state folder for all, so that only the first one decodes the videos
    environment = os.environ | {"ALPRO_STATE": str(state_folder().absolute() / "baseline")}
    subprocess.run([sys.executable, "-P", "-m", "dvc", *words], check=check, env=environment, **quiet)


if __name__ == "__main__":
    try:
        main()
    except AlproError as error:
        sys.exit(f"baseline: {error}")
