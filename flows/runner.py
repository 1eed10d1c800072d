"""Runs stages for a flow: in a worktree that becomes a DVC experiment, or in the checkout; then MLflow and the gate.

DVC decides which stages have to run. Afterwards the checkpoints are registered, and the gate checks the candidates.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.flow_runs import pause_flow_run
from prefect.runtime import flow_run
from prefect.states import State

from alpro.files.locks import holder_of
from alpro.lineage import repository_problem, user_problem
from flows import clone, experiment
from flows.artifacts import GateDecision, MlflowRuns, StageResult, keep_data_docs, publish, publish_gate
from flows.commands import TOOLS, output_of, stream, stream_json
from flows.form import ParamChanges
from flows.run_lock import not_beside_make
from flows.slots import POLL_S, Slots, slots_of
from flows.stages import Outcome, StageFailed, TrainedElsewhere, graph, needs_running, reproduce
from flows.stray_files import find_stray_files, list_names, move_aside
from flows.waiting import project_lock, waiting
from flows.worker import end_with_worker

PASSED, REFUSED = 0, 1  # exit codes of `alpro promote`
COMMAND_S = 4 * 3600  # `alpro register` packs checkpoints, and uploads them if MLflow is on another machine
GATE_S = 24 * 3600  # two evaluations
REGISTERED = ("prompter", "pretrain", "finetune", "evaluate")  # stages after which `alpro register` has something to do
HEAVY = (*REGISTERED, "zeroshot")  # stages that take slots
PAUSE_S = 7 * 24 * 3600  # how long a run waits to be resumed


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a flow runs its stages; the fields are those of its form. `only`: run only stages whose names start with this."""

    from_stage: str | None = None
    in_checkout: bool = False
    stray_files: str = "keep"
    hours: float | None = None
    only: str | None = None
    promote: str = "never"


def _is_transient(_task: Any, _run: Any, state: Any) -> bool:
    try:
        state.result()
    except StageFailed as failure:
        return failure.transient
    except BaseException:
        return False
    return False


@task(
    task_run_name="stage-{stage}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=_is_transient,
)
def run_stage(stage: str, root: Path, force: bool) -> Outcome | Path:
    """Run one stage with `dvc repro --single-item`; its output is the task's log.

    If another run trains the same, return the lock file that it holds meanwhile.
    """
    try:
        return reproduce(stage, root, get_run_logger().info, force)
    except TrainedElsewhere as elsewhere:
        return elsewhere.lock


@task(task_run_name="{name}", cache_policy=NO_CACHE, timeout_seconds=COMMAND_S)
def run_command(name: str, words: Sequence[str], root: Path, as_json: bool = False) -> dict[str, Any]:
    """Run one `alpro` command before or after the stages. With `as_json`, return the JSON document that it prints."""
    command, log = [sys.executable, "-m", "alpro", *words], get_run_logger().info
    if as_json:
        code, lines, stdout = stream_json([*command, "--json"], root, log)
    else:
        (code, lines), stdout = stream(command, root, log), ""
    if code:
        raise StageFailed(_failure(words, lines, code))
    return _parse(words, stdout) if as_json else {}


@task(task_run_name="gate-{name}", cache_policy=NO_CACHE, timeout_seconds=GATE_S)
def ask_gate(name: str, root: Path, dry_run: bool, version: str | None = None) -> GateDecision:
    """Run `alpro promote` for a task, or for one version of it; the checks become an artifact."""
    words = ["promote", "--task", name, *(["--version", version] if version else []), *(["--dry-run"] if dry_run else [])]
    log = get_run_logger().info
    code, lines, stdout = stream_json([sys.executable, "-m", "alpro", *words, "--json"], root, log)
    if code not in (PASSED, REFUSED) or not stdout.strip():
        raise StageFailed(_failure(words, lines, code))
    result = _parse(words, stdout)
    log(result["summary"])
    publish_gate(name, result)
    return GateDecision.from_json(result)


def judge(
    slots: Slots, name: str, root: Path, dry_run: bool, version: str | None = None, hours: float | None = None
) -> GateDecision:
    """Run `ask_gate` while it has the slots of an evaluation."""
    with slots.held(f"evaluate@{name}") as limits:
        decision: GateDecision = with_limit(ask_gate.with_options(tags=limits), hours)(name, root, dry_run, version)
        return decision


def _failure(words: Sequence[str], lines: Sequence[str], code: int) -> str:
    return f"alpro {' '.join(words)} failed: {lines[-1] if lines else f'exit code {code}'}"


def _parse(words: Sequence[str], stdout: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(stdout)
        return document
    except ValueError as error:
        raise StageFailed(f"alpro {' '.join(words)} printed invalid JSON ({error}): {stdout[:200]!r}") from None


def check_git(root: Path, saves_experiment: bool) -> None:
    """Raise ValueError if git cannot be used, for example to save an experiment at the end of a run."""
    if problem := repository_problem(root) or (user_problem(root) if saves_experiment else None):
        raise ValueError(f"{root}: {problem}")


def checkout_folder() -> Path:
    """Return the root of the checkout or clone that contains the working directory.

    Raises ValueError without a git repository, and if the worker's environment does not match a clone.
    """
    check_git(Path.cwd(), saves_experiment=False)
    checkout = Path(output_of(["git", "rev-parse", "--show-toplevel"], Path.cwd()).strip())
    if clone.is_clone():
        clone.prepare(checkout)
    return checkout


def with_limit(work: Any, hours: float | None) -> Any:
    """Return the task with a time limit, if there is one."""
    return work.with_options(timeout_seconds=hours * 3600) if hours else work


def run_targets(targets: Sequence[str], changes: ParamChanges, options: RunOptions) -> dict[str, Outcome] | State[Any]:
    """Run the targets with all stages that they need, as an experiment or in the checkout. Returns the outcomes by stage.

    If the results of a run in a clone did not arrive everywhere, returns an end state that says so.
    """
    log = get_run_logger()
    problems: list[str] = []
    if options.in_checkout and changes:
        raise ValueError("in_checkout allows no changes: edit params.yaml, or run without in_checkout as an experiment")
    if options.in_checkout and clone.is_clone():
        raise ValueError("in_checkout: this pool's runs work in clones that are removed; run without in_checkout")
    end_with_worker()
    checkout = checkout_folder()
    check_git(checkout, saves_experiment=not options.in_checkout)
    name = None
    with project_lock(checkout, alone=options.in_checkout):
        if options.in_checkout:
            with not_beside_make(checkout):
                _clean_checkout(checkout, options.stray_files)
                results = _run_stages(checkout, checkout, targets, options)
                passed = _finish(checkout, results, None, options.promote, problems)
        else:
            with experiment.worktree(checkout, flow_run.name or "run", str(flow_run.id)) as worktree:
                name = worktree.name
                log.info("working in %s; the checkout is not changed", worktree)
                experiment.apply(worktree, changes)
                if clone.is_clone():
                    only = options.only
                    clone.fetch(worktree, graph(worktree, targets).only(only).order if only else targets)
                if linked := experiment.restore(checkout, worktree):
                    log.info("linked from the checkout, because neither git nor DVC tracks them: %s", ", ".join(linked))
                results = _run_stages(checkout, worktree, targets, options)
                message = experiment.describe(str(flow_run.id), changes)
                experiment.save(worktree, name, [result.stage for result in results], message)
                if clone.is_clone():
                    problems += clone.deliver(checkout, worktree, name, [result.stage for result in results])
                passed = _finish(worktree, results, name, options.promote, problems)
            log.info("saved as experiment %s: `dvc exp show`, `dvc exp apply %s`", name, name)
    if options.promote == "ask" and passed:
        _promote_when_resumed(checkout, name, passed)
    if problems and clone.is_clone():
        return clone.end_state(problems)
    return {result.stage: result.outcome for result in results}


def _run_stages(checkout: Path, root: Path, targets: Sequence[str], options: RunOptions) -> list[StageResult]:
    """Run the stages in `root`. If one fails, publish the results so far and keep its Data Docs in `checkout`."""
    run_command("preflight", ["preflight"], root)
    plan = graph(root, targets)
    plan = plan.only(options.only) if options.only else plan
    forced = plan.after(plan.find(options.from_stage)) if options.from_stage else set()
    progress = create_progress_artifact(0.0, key="progress", description=f"{len(plan.order)} stages")
    assert isinstance(progress, UUID)
    slots = slots_of(root) if any(stage.partition("@")[0] in HEAVY for stage in plan.order) else Slots({})
    results: list[StageResult] = []
    for stage in plan.order:
        start = time.monotonic()
        try:
            outcome = _run_stage(stage, root, stage in forced, options.hours, slots)
        except Exception as failure:
            results.append(StageResult(stage, "failed", time.monotonic() - start))
            data_docs = keep_data_docs(stage, root, checkout)
            publish(results, root, None, MlflowRuns(), data_docs)
            if data_docs:
                raise StageFailed(f"{failure}; see {data_docs}") from failure
            raise
        results.append(StageResult(stage, outcome, time.monotonic() - start))
        update_progress_artifact(progress, 100 * len(results) / len(plan.order))
    return results


def _run_stage(stage: str, root: Path, force: bool, hours: float | None, slots: Slots) -> Outcome:
    """Run one stage while it has its slots. If another run trains the same, wait for it; DVC's cache then has the result."""
    while True:
        with slots.held(stage, lambda: force or needs_running(stage, root)) as limits:
            found = with_limit(run_stage.with_options(tags=limits), hours)(stage, root, force)
        if not isinstance(found, Path):
            outcome: Outcome = found
            return outcome
        with waiting() as sign:
            while (holder := holder_of(found)) is not None:
                sign.show(f"waiting for another run that trains the same {stage} ({holder})")
                time.sleep(POLL_S)


def _finish(
    root: Path, results: Sequence[StageResult], experiment_name: str | None, promote: str, problems: list[str]
) -> dict[str, str]:
    """Fill MLflow, publish the artifacts and ask the gate. If the store is unreachable, only the gate is skipped.

    An unreachable store is added to `problems`.

    Returns the tasks whose candidates passed the gate but are not the champion yet, with their version numbers.
    """
    log = get_run_logger()
    names = [result.stage for result in results]
    registers = any(name.partition("@")[0] in REGISTERED for name in names)
    finetuned = [name.partition("@")[2] for name in names if name.startswith("finetune@")]
    words = [*(["register"] if registers else ["track", "sync"]), "--candidates", ",".join(finetuned)]
    if any(result.outcome == "ran" for result in results):
        words += ["--flow", f"{flow_run.name} {flow_run.id}", *(["--experiment", experiment_name] if experiment_name else [])]
    state = run_command(words[0], words, root, as_json=True, return_state=True)
    if not state.is_completed():
        apply = f"`dvc exp apply {experiment_name}`, then " if experiment_name else ""
        problems.append(f"MLflow was not updated ({state.message}); later: {apply}`alpro register`")
        log.warning(problems[-1])
    mlflow = MlflowRuns.from_json(state.result()) if state.is_completed() else MlflowRuns()
    publish(results, root, experiment_name, mlflow)
    if promote == "never" or not state.is_completed():
        return {}
    tasks = [task for task in finetuned if f"evaluate@{task}" in names]  # else another checkpoint was evaluated
    slots = slots_of(root) if tasks else Slots({})
    decisions = {task: judge(slots, task, root, promote == "ask", mlflow.versions.get(task)) for task in tasks}
    return {task: d.version for task, d in decisions.items() if d.passed and not d.already_champion}


def _promote_when_resumed(checkout: Path, experiment_name: str | None, passed: dict[str, str]) -> None:
    """Pause until the run is resumed, without holding the run lock, then promote the versions that passed the gate."""
    log = get_run_logger()
    log.warning("passed the gate: %s; resume this run to make them champions, or cancel it", ", ".join(passed))
    pause_flow_run(timeout=PAUSE_S)
    with ExitStack() as stack:
        stack.enter_context(project_lock(checkout, can_restart=False))
        root = checkout
        if experiment_name:
            root = stack.enter_context(experiment.saved_worktree(checkout, experiment_name))
            experiment.restore(checkout, root)
        slots = slots_of(root)
        for task, version in passed.items():
            judge(slots, task, root, False, version)


def _clean_checkout(checkout: Path, stray_files: str) -> None:
    """Remove DVC locks that a killed run left, and handle files in stage outputs that no stage wrote."""
    log = get_run_logger()
    for line in output_of([sys.executable, str(TOOLS / "clear_dvc_lock.py")], checkout).splitlines():
        log.warning(line)
    paths = find_stray_files(checkout)
    if not paths:
        return
    names = list_names(paths)
    if stray_files == "stop":
        raise StageFailed(
            f"these files in stage outputs are not from a stage, and DVC would delete them: {names}; "
            "run with edited=keep or edited=discard"
        )
    if stray_files == "keep":
        log.warning("not written by a stage: %s; moved to %s", names, move_aside(checkout, paths))
    else:
        log.warning("not written by a stage, DVC will delete them: %s", names)
