"""Time from the start of a command to its first useful work, and the large libraries that it imports until then.

    python -m benchmarks.startup [--repeat 5] [--json FILE] [COMMAND...]

Useful work starts with the call of the function in COMMANDS; the process ends there. Prints a table with the median of wall and
CPU seconds, then JSON on the last line. The first run of each command only fills the system's file cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from alpro.files.json_files import write_json

# words of the command -> module and function with which its work starts
COMMANDS = {
    "preflight": "alpro.checks.preflight:check",
    "data sample": "alpro.data.sample:make_sample",
    "data vocabulary models/sample/text": "alpro.data.words.prepare:make_vocabulary",
    "data validate msvd_qa --passed passed.json --output validated": "alpro.data.validation.run:validate_tables",
    "data entities models/sample/entities": "alpro.data.words.prepare:make_entities",
    "launch -- train prompter": "alpro.launch.run:run_world",
    "train prompter --init recipes/init/scratch.yaml --output out": "alpro.training.run:run_training",
    "train finetune --task msvd_qa --init recipes/init/scratch.yaml --output out": "alpro.training.run:run_training",
    "evaluate --task msvd_qa --checkpoint recipes/init/scratch.yaml --record out": "alpro.evaluation.run:run_evaluation",
    "report make": "alpro.report:make_report",
    "report show": "alpro.report:show_report",
    "track sync": "alpro.registry:sync",
    "plan": "alpro.planning.tables:print_plan",
}
LARGE = (
    *("torch", "torch._dynamo", "torchvision", "timm", "transformers", "great_expectations", "mlflow", "pandas", "pyarrow"),
    *("scipy", "matplotlib", "horovod", "prefect"),
)
# Runs the command line; when the module is loaded, its function is replaced by one that reports and ends the process.
PROGRAM = """\
import importlib.abc, importlib.machinery, json, os, sys, time
name, function = sys.argv.pop(1).split(":")
large = sys.argv.pop(1).split(",")

def report(*args, **kwargs):
    state = {"cpu_s": time.process_time(), "libraries": [name for name in large if name in sys.modules]}
    print("START " + json.dumps(state), flush=True)
    os._exit(0)

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname != name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            setattr(module, function, report)
        spec.loader.exec_module = exec_module
        return spec

import importlib.util
sys.meta_path.insert(0, Finder())
sys.argv[0] = "alpro"
from alpro.cli.main import main
main()
"""


def measure(command: str) -> dict[str, Any]:
    """Run a command until its work starts; return wall_s, cpu_s and libraries."""
    words = [sys.executable, "-c", PROGRAM, COMMANDS[command], ",".join(LARGE), *command.split()]
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    wall_s = time.perf_counter() - start
    lines = [line for line in done.stdout.splitlines() if line.startswith("START ")]
    if not lines:
        raise SystemExit(f"alpro {command}: {COMMANDS[command]} was not called:\n{(done.stdout + done.stderr)[-2000:]}")
    return {"wall_s": wall_s, **json.loads(lines[0].removeprefix("START "))}


def main() -> None:
    """Measure the commands and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", help="beginnings of the commands to measure (default: all)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    chosen = [c for c in COMMANDS if not arguments.commands or any(c.startswith(word) for word in arguments.commands)]
    result: dict[str, Any] = {}
    print(f"{'command':<28} {'wall s':>7} {'CPU s':>7}  libraries")
    for command in chosen:
        runs = [measure(command) for _ in range(arguments.repeat + 1)][1:]
        row = {key: round(statistics.median(run[key] for run in runs), 2) for key in ("wall_s", "cpu_s")}
        result[command] = {**row, "libraries": runs[0]["libraries"]}
        name = " ".join(command.partition(" -")[0].split()[:3])
        print(f"{name:<28} {row['wall_s']:>7.2f} {row['cpu_s']:>7.2f}  {', '.join(runs[0]['libraries'])}", flush=True)
    if arguments.json:
        write_json(arguments.json, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
