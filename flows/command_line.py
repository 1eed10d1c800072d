"""Command line of the flows: `python -m flows.pipeline [FLOW] [OPTIONS]`, with its own Prefect server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpro.lineage import main_checkout
from flows.run_lock import Busy, only_run, shared_run
from flows.runner import check_git
from flows.server import embedded_server
from flows.stages import StageFailed

FAILED, BUSY = 1, 3


def parser(flows: Mapping[str, Any]) -> argparse.ArgumentParser:
    """Return the parser for these flows."""
    result = argparse.ArgumentParser(
        prog="python -m flows.pipeline", description="Run the stages of dvc.yaml as Prefect tasks, with its own Prefect server."
    )
    add = result.add_argument
    add("flow", nargs="?", choices=flows, default="pipeline")
    add("--recipe", help="tiny, sample, official, paper or fast")
    add("-S", "--set-param", action="append", dest="overrides", metavar="KEY=VALUE", help="change params.yaml for this run")
    add("--task", action="append", dest="tasks", help="a dataset; may be repeated")
    add("--from-stage", help="run this stage and all stages after it again")
    add("--promote", choices=["auto", "ask", "never"], help="when to promote candidates that pass the gate")
    add("--in-checkout", action="store_true", default=None, help="work in the checkout, like `make repro`")
    add("--dry-run", action="store_true", default=None, help="for the flow promote: only report the gate's decision")
    add("--edited", choices=["keep", "discard", "stop"], help="what to do with user files in stage outputs")
    add("--hours", type=float, help="time limit of a stage")
    return result


def main(flows: Mapping[str, Any], words: Sequence[str] | None = None) -> int:
    """Run a flow; return the exit code: 1 if it failed, 3 if another run holds the run lock."""
    options = parser(flows)
    arguments = {name: value for name, value in vars(options.parse_args(words)).items() if value is not None}
    flow = flows[arguments.pop("flow")]
    fields = flow.parameters.properties
    if "task" in fields and arguments.get("tasks"):
        arguments["task"] = arguments.pop("tasks")[0]
    if unknown := [name for name in arguments if name not in fields]:
        options.error(f"flow {flow.name} has no option {', '.join(unknown)}")
    from prefect.settings import PREFECT_API_URL

    project = main_checkout(Path.cwd())
    try:
        experiment = flow.name != "promote" and not arguments.get("in_checkout")
        check_git(Path.cwd(), saves_experiment=experiment)  # fail at once
        lock = shared_run if PREFECT_API_URL.value() and not arguments.get("in_checkout") else only_run
        with lock(project, "another run that is starting"):
            pass  # fail at once if another run holds the lock, not after the server's start
        with embedded_server(project):
            flow(**arguments)
    except (StageFailed, Busy, RuntimeError, ValueError) as error:
        print(f"flows: {error}", file=sys.stderr)
        return BUSY if isinstance(error, Busy) else FAILED
    return 0
