"""Accuracy of question answering with several questions per clip against one, over several seeds at equal epochs.

    python -m benchmarks.texts_per_clip --json benchmarks/texts_per_clip/result.json     # after `make repro`
    python -m benchmarks.texts_per_clip --task msvd_qa --per-clip 1 4 --seeds 42 43 44 -S finetune.msvd_qa.epochs=2

Fine-tunes and evaluates a dataset of params.yaml for each value and seed; nothing else differs. Prints the accuracy of each
seed, the seconds of its training, and the difference from the first value with its 95 % interval: a bootstrap over whole test
videos (alpro/evaluation/bootstrap.py) of each question's accuracy, averaged over the seeds. Finished trainings are kept in
.state/texts_per_clip, so a killed comparison resumes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml

from alpro.config import override, parse
from alpro.evaluation.bootstrap import compare
from alpro.files.json_files import write_json
from benchmarks.baseline.runs import fine_tune, key, percent
from benchmarks.evaluation import processor

WORK = Path(".state/texts_per_clip")


def measure(work: Path, raw: dict[str, Any], task: str, init: str, per_clip: int, seeds: list[int]) -> dict[str, Any]:
    """Train and evaluate with `per_clip` questions per clip for each seed; return accuracies in percent, and seconds."""
    changed = override(raw, [f"finetune.{task}.questions_per_clip={per_clip}"])
    result: dict[str, Any] = {"questions_per_clip": per_clip, "accuracy": [], "seconds": []}
    for seed in seeds:
        folder = work / f"{per_clip}-{seed}"
        seconds = folder / "seconds.json"
        began = time.monotonic()
        figures = fine_tune(folder, changed, task, init, seed)
        if not seconds.exists():
            write_json(seconds, time.monotonic() - began)
        result["accuracy"].append(percent(figures, "overall_acc"))
        result["seconds"].append(json.loads(seconds.read_text()))
        print(f"{per_clip} per clip, seed {seed}: {result['accuracy'][-1]:.1f} %, {result['seconds'][-1]:.0f} s", flush=True)
    return result


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
        text = f"{result['questions_per_clip']:2} per clip: {mean(result['accuracy']):5.1f} %, {mean(result['seconds']):4.0f} s"
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
