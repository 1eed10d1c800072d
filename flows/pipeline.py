"""The flows: `python -m flows.pipeline` runs all stages of dvc.yaml as Prefect tasks, with a server of its own.

A plain run works in the checkout, as `make repro` does, and leaves there what that leaves. A run with a recipe or
overrides, or one that is asked to, works in a git worktree and becomes a DVC experiment: params.yaml of the checkout
says what the checkout's results are, and a run that changed it for a trial would leave the two at odds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from pydantic import Field

from alpro.lineage import home
from flows import experiment as trial
from flows.artifacts import Done, publish
from flows.commands import TOOLS, ask, stream
from flows.edited import edited_outputs, put_aside
from flows.lock import Busy, not_beside_make, only_run
from flows.server import embedded_server
from flows.stages import EVERYTHING, Graph, Outcome, StageFailed, graph, reproduce, short

Recipe = Annotated[str | None, Field(description="tiny, sample, official or paper; empty: params.yaml as it is.")]
Overrides = Annotated[
    list[str], Field(description="Changes to params.yaml, as `dvc exp run -S`: finetune.msvd_qa.learning_rate=1e-4")
]
Task = Annotated[str, Field(description="A data set of params.yaml: msrvtt_ret, didemo_ret, msrvtt_qa, msvd_qa or your own.")]
Tasks = Annotated[list[str], Field(description="Only these data sets, without the report; empty: all of them.")]
FromStage = Annotated[str | None, Field(description="Run this stage and all after it again, changed or not: finetune@msvd_qa.")]
Experiment = Annotated[
    bool, Field(description="Leave the checkout alone and save the run as a DVC experiment, overrides or not.")
]
Edited = Annotated[
    Literal["keep", "discard", "stop"],
    Field(description="Files somebody put into a stage's output: move them to .state/kept, let DVC delete them, or stop."),
]
Hours = Annotated[float | None, Field(description="A stage that takes longer is ended; empty: never.", gt=0)]


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


@task(task_run_name="{name}", cache_policy=NO_CACHE)
def run_verb(name: str, words: Sequence[str], root: Path) -> None:
    """One `alpro` command around the stages."""
    code, lines = stream([sys.executable, "-m", "alpro", *words], root, get_run_logger().info)
    if code:
        raise StageFailed(f"alpro {' '.join(words)} failed: {lines[-1] if lines else f'exit code {code}'}")


@flow(name="validate")
def validate(recipe: Recipe = None, overrides: Overrides = [], edited: Edited = "keep") -> dict[str, Outcome]:  # noqa: B006
    """Validate all corpora and data sets that the pipeline reads, with Great Expectations."""
    return _run(EVERYTHING, recipe, overrides, edited=edited, only="validate")


@flow(name="train-prompter")
def train_prompter(recipe: Recipe = None, overrides: Overrides = [], hours: Hours = None) -> dict[str, Outcome]:  # noqa: B006
    """Train the prompter, after what it needs."""
    return _run(["stages/dvc.yaml:prompter"], recipe, overrides, hours=hours)


@flow(name="pretrain")
def pretrain(recipe: Recipe = None, overrides: Overrides = [], hours: Hours = None) -> dict[str, Outcome]:  # noqa: B006
    """Pre-train the video-language model, after what it needs."""
    return _run(["stages/dvc.yaml:pretrain"], recipe, overrides, hours=hours)


@flow(name="finetune")
def finetune(task: Task, recipe: Recipe = None, overrides: Overrides = [], hours: Hours = None) -> dict[str, Outcome]:  # noqa: B006
    """Fine-tune for one data set, after what that needs."""
    return _run([f"stages/dvc.yaml:finetune@{task}"], recipe, overrides, hours=hours)


@flow(name="evaluate")
def evaluate(task: Task, recipe: Recipe = None, overrides: Overrides = []) -> dict[str, Outcome]:  # noqa: B006
    """Evaluate one data set's test split, after what that needs."""
    return _run([f"evaluate@{task}"], recipe, overrides)


@flow(name="pipeline")
def pipeline(
    recipe: Recipe = None,
    overrides: Overrides = [],  # noqa: B006
    tasks: Tasks = [],  # noqa: B006
    from_stage: FromStage = None,
    experiment: Experiment = False,
    edited: Edited = "keep",
    hours: Hours = None,
) -> dict[str, Outcome]:
    """All stages: data, validation, training, evaluation, report. DVC says what has to run."""
    targets = [f"evaluate@{task}" for task in tasks] or EVERYTHING
    return _run(targets, recipe, overrides, from_stage, experiment, edited, hours)


FLOWS: dict[str, Any] = {"pipeline": pipeline, "validate": validate, "train-prompter": train_prompter, "pretrain": pretrain,
         "finetune": finetune, "evaluate": evaluate}  # fmt: skip


def _run(
    targets: Sequence[str],
    recipe: str | None,
    overrides: Sequence[str],
    from_stage: str | None = None,
    experiment: bool = False,
    edited: str = "keep",
    hours: float | None = None,
    only: str | None = None,
) -> dict[str, Outcome]:
    """Run the targets with all that they need: in the checkout, or as an experiment."""
    log = get_run_logger()
    checkout = Path(ask(["git", "rev-parse", "--show-toplevel"], Path.cwd()).strip())
    name = flow_run.name or "run"
    with only_run(home(checkout), name):
        if not (recipe or overrides or experiment):
            with not_beside_make(checkout):
                _make_ready(checkout, edited)
                done = _run_stages(checkout, targets, from_stage, hours, only)
                _sync(checkout)
                publish(done, checkout, None)
        else:
            with trial.worktree(checkout, name) as place:
                log.info("working in %s; the checkout stays as it is", place)
                if recipe:
                    ask([sys.executable, "-m", "alpro", "recipe", "use", recipe], place)
                if overrides:
                    trial.override(place, overrides)
                trial.restore(place)
                done = _run_stages(place, targets, from_stage, hours, only)
                trial.save(place, name, [one.stage for one in done], trial.describe(recipe, overrides))
                _sync(place)
                publish(done, place, name)
            log.info("saved as experiment %s: `dvc exp show`, `dvc exp apply %s`", name, name)
    return {short(one.stage): one.outcome for one in done}


def _run_stages(
    root: Path, targets: Sequence[str], from_stage: str | None, hours: float | None, only: str | None
) -> list[Done]:
    run_verb("preflight", ["preflight"], root)
    plan = _narrowed(graph(root, targets), only)
    forced = plan.after(plan.find(from_stage)) if from_stage else set()
    progress = create_progress_artifact(0.0, key="progress", description=f"{len(plan.order)} stages")
    assert isinstance(progress, UUID)
    timed = run_stage.with_options(timeout_seconds=hours * 3600) if hours else run_stage
    done: list[Done] = []
    for stage in plan.order:
        start = time.monotonic()
        outcome = timed(short(stage), stage, root, stage in forced)
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
    for line in ask([sys.executable, str(TOOLS / "dvc_lock.py")], checkout).splitlines():
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


def _sync(root: Path) -> None:
    """Fill in MLflow's runs; results do not depend on it, so a store that is down stops nothing."""
    state = run_verb("track", ["track", "sync"], root, return_state=True)
    if not state.is_completed():
        get_run_logger().warning("MLflow was not filled in (%s); `alpro track sync` does it later", state.message)


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
    parser.add_argument("--experiment", action="store_true", default=None, help="work in a worktree, save as DVC experiment")
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
