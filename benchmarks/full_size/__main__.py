"""Two steps of the four trainings at the paper's sizes, killed after the first step and resumed.

    python -m benchmarks.full_size --json benchmarks/full_size/result.json [--work FOLDER] [--batch 2] [--threads 2]

Shows that the trainings fit into memory and resume. Uses recipe `paper` from random weights, on synthetic videos of 224 pixels
in the official layout, with a vocabulary of BERT's size, 1,000 entities and answer lists of the released lengths. Only the
batch is smaller. Prints each training's losses, the peak memory of its process (as `/usr/bin/time -v` does) and the
prediction of `alpro plan`. Needs about 10 GB of memory and 15 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alpro.files.json_files import write_json

ROOT = Path(__file__).resolve().parents[2]
STAGES = {
    "prompter": ("prompter", []),
    "pretrain": ("pretrain", ["--teacher", "models/paper/prompter"]),
    "finetune/msrvtt_ret": ("finetune", ["--task", "msrvtt_ret"]),
    "finetune/msrvtt_qa": ("finetune", ["--task", "msrvtt_qa"]),
}
SAMPLE = "sample={frame_size: 224, pretrain_videos: 8, pretrain_images: 8, train_videos: 8, val_videos: 2, test_videos: 2}"
ANSWERS = {"msrvtt_qa": 1500, "msvd_qa": 2423}  # the released lists' lengths
GB = 1e9


def alpro(*words: str) -> list[str]:
    """Return an `alpro` command with recipe `paper`."""
    return [sys.executable, "-m", "alpro", *words, "--recipe", "paper"]


def prepare(work: Path, environment: dict[str, str]) -> None:
    """Make all inputs of recipe `paper` in the folders that it names."""
    shutil.copytree(ROOT / "recipes", work / "recipes", dirs_exist_ok=True)

    def run(*words: str) -> None:
        subprocess.run(alpro(*words), cwd=work, env=environment, check=True)

    run("data", "sample", "--root", "data", "-S", SAMPLE)
    run("data", "vocabulary", "ext/bert-base-uncased")
    (work / "data/unigrams.txt").write_text("".join(f"thing{n} {2000 - n}\n" for n in range(1000)))
    run("data", "entities", "models/paper/entities")
    for name, number in ANSWERS.items():
        path = work / f"data/{name}/txt/train_ans2label.json"
        answers = json.loads(path.read_text())
        answers |= {f"answer {label}": label for label in range(len(answers), number)}
        path.write_text(json.dumps(answers))


def overrides(name: str, batch: int, threads: int) -> list[str]:
    """Return the options that differ from the recipe: batch size, no loader processes, a snapshot after every step."""
    section = name.replace("/", ".")
    values = {"batch_size": batch, "log_every": 1, "save_every_s": 0.001}
    settings = [f"launch.threads={threads}", "loader.workers=0", *(f"{section}.{key}={value}" for key, value in values.items())]
    return [word for setting in settings for word in ("-S", setting)]


def train(name: str, work: Path, environment: dict[str, str], batch: int, threads: int) -> dict[str, Any]:
    """Run a training: kill it after its first snapshot, then run it again to the end."""
    stage, options = STAGES[name]
    words = ["train", stage, *options, "--init", "recipes/init/scratch.yaml", "--output", f"models/paper/{name}"]
    command = alpro(*words, "--record", f"reports/{name}", "--max-steps", "2", *overrides(name, batch, threads))
    first = _watched(command, work, environment, until=f".state/{name}/*/step-000000001")
    second = _watched(command, work, environment)
    if "continuing after step 1 of 2" not in second["output"]:
        raise SystemExit(f"{name}: the training did not resume:\n{second['output']}")
    rows = [json.loads(line) for line in (work / f"reports/{name}/history.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if row["split"] == "train"}
    if sorted(losses) != [1, 2] or not all(math.isfinite(value) for row in rows for value in row.values() if _number(value)):
        raise SystemExit(f"{name}: the history does not have two steps with finite losses: {rows}")
    return {
        "command": " ".join(["alpro", *command[3:]]),
        "history": rows,
        "peak_bytes": {"killed after step 1": first["peak_bytes"], "resumed to step 2": second["peak_bytes"]},
        "seconds": {"killed after step 1": first["seconds"], "resumed to step 2": second["seconds"]},
    }


def _watched(command: list[str], work: Path, environment: dict[str, str], until: str | None = None) -> dict[str, Any]:
    """Run a command, or kill it as soon as a file matches `until`; return its output, peak memory and seconds."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT)
        killed = False
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            if until is not None and not killed and any(work.glob(until)):
                os.kill(process.pid, signal.SIGKILL)
                killed = True
            time.sleep(0.05)
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        log.seek(0)
        output = log.read()
    if process.returncode != (-signal.SIGKILL if until is not None else 0):
        raise SystemExit(f"{' '.join(command)}: ended with exit code {process.returncode}:\n{output}")
    return {"output": output, "peak_bytes": ended[2].ru_maxrss * 1024, "seconds": round(time.monotonic() - began, 1)}


def predicted(work: Path, environment: dict[str, str], batch: int) -> dict[str, Any]:
    """Return the memory that `alpro plan` predicts for each training. All batches are reduced, to fit the small data."""
    smaller = [f"{name.replace('/', '.')}.batch_size={batch}" for name in (*STAGES, "finetune/didemo_ret", "finetune/msvd_qa")]
    command = alpro("plan", "--gpus", "1", "--json", *(word for setting in smaller for word in ("-S", setting)))
    plan = json.loads(subprocess.run(command, cwd=work, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return {training["name"]: training["memory"] for training in plan["trainings"]}


def idle_bytes(work: Path, environment: dict[str, str]) -> int:
    """Return the memory of a process that has only imported the modules of a training."""
    command = [sys.executable, "-c", "import alpro.training.run, decord, transformers"]
    peak: int = _watched(command, work, environment)["peak_bytes"]
    return peak


def _number(value: object) -> bool:
    return isinstance(value, (int, float))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument(
        "--work", type=Path, help="folder for data and checkpoints, which are kept; default: a temporary folder"
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--only", choices=STAGES, action="append", help="run only this training (repeatable); pretrain needs the prompter"
    )
    args = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ALPRO_LIVE": "off", "OMP_NUM_THREADS": str(args.threads)}
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        prepare(work, environment)
        result: dict[str, Any] = {"batch": args.batch, "threads": args.threads, "idle_bytes": idle_bytes(work, environment)}
        result["trainings"] = {}
        planned = predicted(work, environment, args.batch)  # before anything is trained
        print(f"{'training':22}{'loss, step 1':>14}{'step 2':>10}{'peak GB':>10}{'planned GB':>12}{'seconds':>10}")
        for name in args.only or STAGES:
            entry = train(name, work, environment, args.batch, args.threads)
            entry["planned"] = planned[name]
            result["trainings"][name] = entry
            first, second = (row["loss"] for row in entry["history"] if row["split"] == "train")
            peak, planned_peak = max(entry["peak_bytes"].values()) / GB, (planned[name]["peak"] + result["idle_bytes"]) / GB
            seconds = sum(entry["seconds"].values())
            print(f"{name:22}{first:14.3f}{second:10.3f}{peak:10.1f}{planned_peak:12.1f}{seconds:10.0f}", flush=True)
            if args.json:  # after each training, so that a later failure loses nothing
                write_json(args.json, result)
    print(f"planned: `alpro plan`'s peak and the {result['idle_bytes'] / GB:.1f} GB of a process that has imported everything")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
