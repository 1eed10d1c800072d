"""The flows: `python -m flows.pipeline` runs all stages of dvc.yaml as Prefect tasks, with a server of its own.

A run works in a git worktree and becomes a DVC experiment, so it never touches the checkout; `in_checkout` makes it work
there, as `make repro` does, and then it changes no parameter: params.yaml says what the checkout's results are.
Afterwards the checkpoints are registered, and the gate is asked about the candidates.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.flow_runs import pause_flow_run
from prefect.runtime import flow_run
from prefect.states import Completed, State
from pydantic import Field

from alpro.lineage import home
from flows import experiment as trial
from flows.artifacts import Done, Judged, Tracked, gate_key, kept_findings, publish, publish_gate
from flows.commands import TOOLS, ask, stream
from flows.form import (
    Ask,
    Changes,
    Edited,
    FromStage,
    Hours,
    InCheckout,
    Machines,
    Overrides,
    Recipe,
    Start,
    Task,
    Tasks,
    changes,
    described,
)  # fmt: skip
from flows.run_lock import Busy, not_beside_make, only_run
from flows.server import embedded_server
from flows.stages import EVERYTHING, Graph, Outcome, StageFailed, graph, reproduce, short
from flows.stray_files import edited_outputs, put_aside
from flows.worker import end_with_worker

REFUSED = 1  # `alpro promote` exits so when the gate says no
VERB_S = 4 * 3600  # `alpro register` packs checkpoints, and uploads them where MLflow is elsewhere
GATE_S = 24 * 3600  # two evaluations
TRAINING = ("prompter", "pretrain", "finetune", "evaluate")
PAUSE_S = 7 * 24 * 3600  # how long a run waits for somebody to resume it


def _worth_repeating(_task: Any, _run: Any, state: Any) -> bool:
    try:
        state.result()
    except StageFailed as failure:
        return failure.transient
    except BaseException:
        return False
    return False


@task(
    task_run_name="stage-{name}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=_worth_repeating,
)
def run_stage(name: str, stage: str, root: Path, force: bool) -> Outcome:
    """One stage, by `dvc repro --single-item`; its lines are the task's log."""
    return reproduce(stage, root, get_run_logger().info, force)


@task(task_run_name="{name}", cache_policy=NO_CACHE, timeout_seconds=VERB_S)
def run_verb(name: str, words: Sequence[str], root: Path) -> list[str]:
    """One `alpro` command around the stages; returns its last lines."""
    code, lines = stream([sys.executable, "-m", "alpro", *words], root, get_run_logger().info)
    if code:
        raise StageFailed(f"alpro {' '.join(words)} failed: {lines[-1] if lines else f'exit code {code}'}")
    return lines


@task(task_run_name="gate-{name}", cache_policy=NO_CACHE, timeout_seconds=GATE_S)
def ask_gate(name: str, root: Path, dry_run: bool, version: str | None = None) -> Judged:
    """`alpro promote`, of that version alone where one is given: its table becomes an artifact."""
    only = ["--version", version] if version else []
    words = ["promote", "--task", name, *only, *(["--dry-run"] if dry_run else [])]
    code, lines = stream([sys.executable, "-m", "alpro", *words], root, get_run_logger().info)
    if code not in (0, REFUSED):
        raise StageFailed(f"alpro {' '.join(words)} failed: {lines[-1] if lines else f'exit code {code}'}")
    publish_gate(name, lines)
    return Judged.read(name, code == 0, lines)


@flow(name="validate")
@described
def validate(recipe: Recipe = None, overrides: Overrides = [], hours: Hours = None) -> dict[str, Outcome]:  # noqa: B006
    """Validate all corpora and data sets that the pipeline reads, with Great Expectations."""
    return _run(EVERYTHING, changes(recipe, overrides), hours=hours, only="validate")


@flow(name="train-prompter")
@described
def train_prompter(
    recipe: Recipe = None,
    overrides: Overrides = [],  # noqa: B006
    start: Start = Start(),  # noqa: B008
    machines: Machines = Machines(),  # noqa: B008
    hours: Hours = None,
) -> dict[str, Outcome]:
    """Train the prompter, after what it needs."""
    return _run(["stages/dvc.yaml:prompter"], changes(recipe, overrides, start, machines), hours=hours)


@flow(name="pretrain")
@described
def pretrain(
    recipe: Recipe = None,
    overrides: Overrides = [],  # noqa: B006
    start: Start = Start(),  # noqa: B008
    machines: Machines = Machines(),  # noqa: B008
    hours: Hours = None,
) -> dict[str, Outcome]:
    """Pre-train the video-language model, after what it needs."""
    return _run(["stages/dvc.yaml:pretrain"], changes(recipe, overrides, start, machines), hours=hours)


@flow(name="finetune")
@described
def finetune(
    task: Task,
    recipe: Recipe = None,
    overrides: Overrides = [],  # noqa: B006
    start: Start = Start(),  # noqa: B008
    machines: Machines = Machines(),  # noqa: B008
    hours: Hours = None,
) -> dict[str, Outcome]:
    """Fine-tune for one data set, after what that needs."""
    return _run([f"stages/dvc.yaml:finetune@{task}"], changes(recipe, overrides, start, machines), hours=hours)


@flow(name="evaluate")
@described
def evaluate(
    task: Task,
    recipe: Recipe = None,
    overrides: Overrides = [],  # noqa: B006
    machines: Machines = Machines(),  # noqa: B008
    hours: Hours = None,
) -> dict[str, Outcome]:
    """Evaluate one data set's test split, after what that needs."""
    return _run([f"evaluate@{task}"], changes(recipe, overrides, machines=machines), hours=hours)


@flow(name="promote")
@described
def promote(
    task: Task,
    dry_run: Annotated[bool, Field(description="Only say what the gate says; nothing moves.")] = False,
    hours: Hours = None,
) -> State[Any]:
    """Ask the gate about a task's candidate: on the data in the checkout, against the champion."""
    end_with_worker()
    checkout = _checkout()
    with only_run(home(checkout), flow_run.name or "run", wait=get_run_logger().warning):
        passed = _timed(ask_gate, hours)(task, checkout, dry_run).passed
    name = ("Passed" if dry_run else "Promoted") if passed else "Refused"
    return Completed(name=name, message=f"the gate's table is the artifact {gate_key(task)}")


@flow(name="pipeline")
@described
def pipeline(
    recipe: Recipe = None,
    overrides: Overrides = [],  # noqa: B006
    tasks: Tasks = [],  # noqa: B006
    start: Start = Start(),  # noqa: B008
    machines: Machines = Machines(),  # noqa: B008
    from_stage: FromStage = None,
    promote: Ask = "never",
    in_checkout: InCheckout = False,
    edited: Edited = "keep",
    hours: Hours = None,
) -> dict[str, Outcome]:
    """All stages: data, validation, training, evaluation, report. DVC says what has to run."""
    targets = [f"evaluate@{task}" for task in tasks] or EVERYTHING
    given = changes(recipe, overrides, start, machines)
    return _run(targets, given, from_stage, in_checkout, edited, hours, gate=promote)


FLOWS: dict[str, Any] = {"pipeline": pipeline, "validate": validate, "train-prompter": train_prompter, "pretrain": pretrain,
         "finetune": finetune, "evaluate": evaluate, "promote": promote}  # fmt: skip


def _checkout() -> Path:
    return Path(ask(["git", "rev-parse", "--show-toplevel"], Path.cwd()).strip())


def _run(
    targets: Sequence[str],
    given: Changes,
    from_stage: str | None = None,
    in_checkout: bool = False,
    edited: str = "keep",
    hours: float | None = None,
    only: str | None = None,
    gate: str = "never",
) -> dict[str, Outcome]:
    """Run the targets with all that they need: as an experiment, or in the checkout."""
    log = get_run_logger()
    if in_checkout and given:
        raise ValueError("in_checkout takes no changes: edit params.yaml, or let the run be an experiment")
    end_with_worker()
    checkout = _checkout()
    name = flow_run.name or "run"
    with only_run(home(checkout), name, wait=log.warning):
        if in_checkout:
            with not_beside_make(checkout):
                _make_ready(checkout, edited)
                done = _run_stages(checkout, checkout, targets, from_stage, hours, only)
                passed = _finish(checkout, done, None, gate)
        else:
            with trial.worktree(checkout, name) as place:
                log.info("working in %s; the checkout stays as it is", place)
                trial.apply(place, given)
                if linked := trial.restore(checkout, place):
                    log.info("tracked by neither git nor DVC, so read where they lie: %s", ", ".join(linked))
                done = _run_stages(checkout, place, targets, from_stage, hours, only)
                trial.save(place, name, [one.stage for one in done], trial.describe(str(flow_run.id), given))
                passed = _finish(place, done, name, gate)
            log.info("saved as experiment %s: `dvc exp show`, `dvc exp apply %s`", name, name)
    if gate == "ask" and passed:
        _promote_when_resumed(checkout, None if in_checkout else name, passed)
    return {short(one.stage): one.outcome for one in done}


def _promote_when_resumed(checkout: Path, experiment: str | None, passed: dict[str, str | None]) -> None:
    """Wait until somebody resumes the run, without keeping others from theirs, then promote the versions that passed."""
    log = get_run_logger()
    log.warning("passed the gate: %s; resume this run to make them champions, cancel it to leave things", ", ".join(passed))
    pause_flow_run(timeout=PAUSE_S)
    with ExitStack() as held:
        held.enter_context(only_run(home(checkout), flow_run.name or "run", wait=log.warning))
        root = checkout
        if experiment:
            root = held.enter_context(trial.worktree(checkout, experiment, saved=True))
            trial.restore(checkout, root)
        for task, version in passed.items():
            ask_gate(task, root, False, version)


def _finish(root: Path, done: Sequence[Done], experiment: str | None, gate: str) -> dict[str, str | None]:
    """MLflow, the artifacts, the gate. Results do not depend on a store, so one that is down stops nothing but the gate.

    Returns the tasks whose candidates passed the gate, and are no champions yet, with their versions.
    """
    log = get_run_logger()
    names = [short(one.stage) for one in done]
    trains = any(name.partition("@")[0] in TRAINING for name in names)
    finetuned = [name.partition("@")[2] for name in names if name.startswith("finetune@")]
    words = [*(["register"] if trains else ["track", "sync"]), "--candidates", ",".join(finetuned)]
    if any(one.outcome == "ran" for one in done):
        words += ["--flow", f"{flow_run.name} {flow_run.id}", *(["--experiment", experiment] if experiment else [])]
    state = run_verb(words[0], words, root, return_state=True)
    if not state.is_completed():
        log.warning("MLflow was not filled in (%s); `alpro register` does it later", state.message)
    publish(done, root, experiment, Tracked.read(state.result() if state.is_completed() else []))
    if gate == "never" or not state.is_completed():
        return {}
    tasks = [task for task in finetuned if f"evaluate@{task}" in names]  # not where the evaluation is of another checkpoint
    answers = {task: ask_gate(task, root, gate == "ask") for task in tasks}
    return {task: said.version for task, said in answers.items() if said.passed and not said.champion}


def _timed(work: Any, hours: float | None) -> Any:
    return work.with_options(timeout_seconds=hours * 3600) if hours else work


def _run_stages(
    checkout: Path, root: Path, targets: Sequence[str], from_stage: str | None, hours: float | None, only: str | None
) -> list[Done]:
    """Run the stages in `root`; where one fails, publish what there is, and keep what it found in `checkout`."""
    run_verb("preflight", ["preflight"], root)
    plan = _narrowed(graph(root, targets), only)
    forced = plan.after(plan.find(from_stage)) if from_stage else set()
    progress = create_progress_artifact(0.0, key="progress", description=f"{len(plan.order)} stages")
    assert isinstance(progress, UUID)
    done: list[Done] = []
    for stage in plan.order:
        start = time.monotonic()
        try:
            outcome = _timed(run_stage, hours)(short(stage), stage, root, stage in forced)
        except Exception as failure:
            done.append(Done(stage, "failed", time.monotonic() - start))
            found = kept_findings(stage, root, checkout)
            publish(done, root, None, Tracked.read([]), found)
            if found:
                raise StageFailed(f"{failure}; what it found: {found}") from failure
            raise
        done.append(Done(stage, outcome, time.monotonic() - start))
        update_progress_artifact(progress, 100 * len(done) / len(plan.order))
    return done


def _narrowed(plan: Graph, only: str | None) -> Graph:
    """The stages of one kind, and what they need."""
    if only is None:
        return plan
    wanted = {stage for stage in plan.order if short(stage).startswith(only)}
    for stage in reversed(plan.order):
        if stage in wanted:
            wanted |= plan.needs[stage]
    return Graph(tuple(stage for stage in plan.order if stage in wanted), plan.needs)


def _make_ready(checkout: Path, edited: str) -> None:
    """Clear away what a killed run left, and see to files that are not the stages' own."""
    log = get_run_logger()
    for line in ask([sys.executable, str(TOOLS / "clear_dvc_lock.py")], checkout).splitlines():
        log.warning(line)
    paths = edited_outputs(checkout)
    if not paths:
        return
    listed = ", ".join(paths[:10]) + (f" and {len(paths) - 10} more" if len(paths) > 10 else "")
    if edited == "stop":
        raise StageFailed(
            f"not written by a stage, and a stage would delete them: {listed}; run with edited=keep or edited=discard"
        )
    if edited == "keep":
        log.warning("not written by a stage: %s; moved to %s", listed, put_aside(checkout, paths))
    else:
        log.warning("not written by a stage, and left to be deleted: %s", listed)


def main(words: Sequence[str] | None = None) -> int:
    """Run a flow from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("flow", nargs="?", choices=FLOWS, default="pipeline")
    parser.add_argument("--recipe", help="tiny, sample, official or paper")
    parser.add_argument(
        "-S", "--set-param", action="append", dest="overrides", metavar="KEY=VALUE", help="change params.yaml for this run"
    )
    parser.add_argument("--task", action="append", dest="tasks", help="a data set; may be given several times")
    parser.add_argument("--from-stage", help="run this stage and all after it again")
    parser.add_argument("--promote", choices=["auto", "ask", "never"], help="what the gate lets through becomes the champion")
    parser.add_argument("--in-checkout", action="store_true", default=None, help="work in the checkout, as `make repro`")
    parser.add_argument("--dry-run", action="store_true", default=None, help="of promote: only say what the gate says")
    parser.add_argument("--edited", choices=["keep", "discard", "stop"], help="files put into stages' outputs")
    parser.add_argument("--hours", type=float, help="the longest time of a stage")
    given = {name: value for name, value in vars(parser.parse_args(words)).items() if value is not None}
    chosen = FLOWS[given.pop("flow")]
    known = chosen.parameters.properties
    if "task" in known and given.get("tasks"):
        given["task"] = given.pop("tasks")[0]
    if unknown := [name for name in given if name not in known]:
        parser.error(f"flow {chosen.name} takes no {', '.join(unknown)}")
    project = home(Path.cwd())
    try:
        with only_run(project, "another that starts"):
            pass  # refused at once, not after the server's start
        with embedded_server(project):
            chosen(**given)
    except (StageFailed, Busy, RuntimeError, ValueError) as error:
        print(f"flows: {error}", file=sys.stderr)
        return 3 if isinstance(error, Busy) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
