"""Accuracy of question answering with several questions per clip against one, over several seeds at equal epochs.

    python -m benchmarks.texts_per_clip --json benchmarks/texts_per_clip/result.json     # after `make repro`
    python -m benchmarks.texts_per_clip --task msvd_qa --per-clip 1 4 --seeds 42 43 44 -S finetune.msvd_qa.epochs=2

Fine-tunes and evaluates a dataset of params.yaml for each value and seed; nothing else differs. Prints the accuracy of each
seed with the CPU seconds of its training and evaluation, and the difference from the first value with its 95 % interval: a
bootstrap over whole test videos (alpro/evaluation/bootstrap.py) of each question's accuracy, averaged over the seeds. Finished
trainings are kept in .state/texts_per_clip, so a killed comparison resumes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml

from alpro.config import override, parse
from alpro.evaluation.bootstrap import compare
from alpro.files.json_files import write_json
from alpro.files.state import state_folder
from benchmarks.evaluation import processor
from benchmarks.texts_per_clip.runs import fine_tune, key, percent

WORK = state_folder() / "texts_per_clip"


def measure(work: Path, raw: dict[str, Any], task: str, init: str, per_clip: int, seeds: list[int]) -> dict[str, Any]:
    """Train and evaluate with `per_clip` questions per clip for each seed; return accuracies in percent, and CPU seconds."""
    changed = override(raw, [f"finetune.{task}.questions_per_clip={per_clip}"])
    result: dict[str, Any] = {"questions_per_clip": per_clip, "accuracy": [], "cpu_s": []}
    for seed in seeds:
        folder = work / f"{per_clip}-{seed}"
        cost, before = folder / "cpu_s.json", cpu_seconds()
        figures = fine_tune(folder, changed, task, init, seed)
        if not cost.exists():
            write_json(cost, cpu_seconds() - before)
        result["accuracy"].append(percent(figures, "overall_acc"))
        result["cpu_s"].append(json.loads(cost.read_text()))
        print(f"{per_clip} per clip, seed {seed}: {result['accuracy'][-1]:.1f} %, {result['cpu_s'][-1]:.0f} CPU s", flush=True)
    return result


def cpu_seconds() -> float:
    """Return the CPU time of the commands that have ended; it depends less on the machine's load than elapsed time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def correctness(work: Path, per_clip: int, seeds: list[int]) -> tuple[np.ndarray, list[str]]:
    """Return each test question's accuracy in percent, averaged over the seeds, and its video."""
    by_seed = []
    for seed in seeds:
        file = work / f"{per_clip}-{seed}" / "evaluation" / "predictions.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        by_seed.append(sorted(rows, key=lambda row: row["id"]))
    return np.mean([[100.0 * row["correct"] for row in rows] for rows in by_seed], 0), [row["video"] for row in by_seed[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--task", default="msvd_qa", help="a dataset for question answering")
    parser.add_argument("--init", help="where to start; default: init.finetune of the parameters")
    parser.add_argument("--per-clip", type=int, nargs="+", default=[1, 4], help="values of questions_per_clip")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("-S", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="change a parameter")
    parser.add_argument("--json", type=Path, help="file for the result")
    args = parser.parse_args()
    raw = override(yaml.safe_load(args.params.read_text(encoding="utf-8")), args.changes)
    params = parse(raw)
    init = args.init or params.init.finetune
    work = WORK / f"{args.task}-{key(raw, init)}"
    results = [measure(work, raw, args.task, init, per_clip, args.seeds) for per_clip in args.per_clip]
    reference, videos = correctness(work, args.per_clip[0], args.seeds)
    for result in results[1:]:
        values, _ = correctness(work, result["questions_per_clip"], args.seeds)
        comparison = compare(values, reference, groups=videos)
        result |= {"difference": comparison.difference, "ci95": comparison.ci95}
    for result in results:
        text = (
            f"{result['questions_per_clip']:2} per clip: {mean(result['accuracy']):5.1f} %, {mean(result['cpu_s']):4.0f} CPU s"
        )
        if "ci95" in result:
            low, high = result["ci95"]
            text += f", {result['difference']:+.1f} points [{low:+.1f}, {high:+.1f}] against {args.per_clip[0]}"
        print(text)
    settings = params.finetune[args.task]
    report = {
        "task": args.task, "recipe": params.recipe, "init": init, "changes": args.changes, "seeds": args.seeds,
        "epochs": settings.epochs, "batch_size": settings.batch_size, "processes": params.launch.world_size,
        "test_questions": len(videos), "test_videos": len(set(videos)), "processor": processor(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "results": results,
    }  # fmt: skip
    if args.json:
        write_json(args.json, report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
