"""The flows: `python -m flows.pipeline` runs all stages of dvc.yaml as Prefect tasks, with its own Prefect server.

A run works in a git worktree and becomes a DVC experiment, so it never changes the checkout. With `in_checkout` it works in
the checkout like `make repro`, and then it cannot change parameters: params.yaml describes the checkout's results.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed, State
from pydantic import Field

from flows import clone, experiment
from flows.artifacts import gate_key
from flows.command_line import main
from flows.form import (
    FromStage,
    Hours,
    InCheckout,
    Machines,
    Overrides,
    Promote,
    Recipe,
    Start,
    StrayFiles,
    Task,
    Tasks,
    described,
    to_changes,
)
from flows.runner import RunOptions, checkout_folder, judge, run_targets
from flows.slots import slots_of
from flows.stages import EVERYTHING, Outcome
from flows.waiting import project_lock
from flows.worker import end_with_worker

Outcomes = dict[str, Outcome] | State[Any]  # a state only for a clone whose results did not arrive everywhere


@flow(name="validate")
@described
def validate(recipe: Recipe = None, overrides: Overrides = [], hours: Hours = None) -> Outcomes:  # noqa: B006
    """Validate all corpora and datasets that the pipeline reads, with Great Expectations."""
    return run_targets(EVERYTHING, to_changes(recipe, overrides), RunOptions(hours=hours, only="validate"))


@flow(name="train-prompter")
@described
def train_prompter(
    recipe: Recipe = None,
    overrides: Overrides = [],  # noqa: B006
    start: Start = Start(),  # noqa: B008
    machines: Machines = Machines(),  # noqa: B008
    hours: Hours = None,
) -> Outcomes:
    """Train the prompter, after the stages that it needs."""
    changes = to_changes(recipe, overrides, start, machines)
    return run_targets(["prompter"], changes, RunOptions(hours=hours))


@flow(name="pretrain")
@described
def pretrain(
    recipe: Recipe = None,
    overrides: Overrides = [],  # noqa: B006
    start: Start = Start(),  # noqa: B008
    machines: Machines = Machines(),  # noqa: B008
    hours: Hours = None,
) -> Outcomes:
    """Pre-train the video-language model, after the stages that it needs."""
    changes = to_changes(recipe, overrides, start, machines)
    return run_targets(["pretrain"], changes, RunOptions(hours=hours))


@flow(name="finetune")
@described
def finetune(
    task: Task,
    recipe: Recipe = None,
    overrides: Overrides = [],  # noqa: B006
    start: Start = Start(),  # noqa: B008
    machines: Machines = Machines(),  # noqa: B008
    hours: Hours = None,
) -> Outcomes:
    """Fine-tune for one dataset, after the stages that this needs."""
    changes = to_changes(recipe, overrides, start, machines)
    return run_targets([f"finetune@{task}"], changes, RunOptions(hours=hours))


@flow(name="evaluate")
@described
def evaluate(
    task: Task,
    recipe: Recipe = None,
    overrides: Overrides = [],  # noqa: B006
    machines: Machines = Machines(),  # noqa: B008
    hours: Hours = None,
) -> Outcomes:
    """Evaluate the test split of one dataset, after the stages that this needs."""
    changes = to_changes(recipe, overrides, machines=machines)
    return run_targets([f"evaluate@{task}"], changes, RunOptions(hours=hours))


@flow(name="promote")
@described
def promote(
    task: Task,
    dry_run: Annotated[bool, Field(description="Only report the gate's decision; move no alias.")] = False,
    hours: Hours = None,
) -> State[Any]:
    """Compare a task's candidate with its champion, on the data in the checkout, and promote it if it passes the gate."""
    end_with_worker()
    checkout = checkout_folder()
    if clone.is_clone():
        clone.fetch(checkout, [f"evaluate@{task}"])
        experiment.restore(checkout, checkout)
    with project_lock(checkout):
        passed = judge(slots_of(checkout), task, checkout, dry_run, hours=hours).passed
    name = ("Passed" if dry_run else "Promoted") if passed else "Refused"
    return Completed(name=name, message=f"the checks are in the artifact {gate_key(task)}")


@flow(name="pipeline")
@described
def pipeline(
    recipe: Recipe = None,
    overrides: Overrides = [],  # noqa: B006
    tasks: Tasks = [],  # noqa: B006
    start: Start = Start(),  # noqa: B008
    machines: Machines = Machines(),  # noqa: B008
    from_stage: FromStage = None,
    promote: Promote = "never",
    in_checkout: InCheckout = False,
    edited: StrayFiles = "keep",
    hours: Hours = None,
) -> Outcomes:
    """Run all stages that are not up to date: data, validation, training, evaluation, report."""
    targets = [f"evaluate@{task}" for task in tasks] or EVERYTHING
    changes = to_changes(recipe, overrides, start, machines)
    return run_targets(targets, changes, RunOptions(from_stage, in_checkout, edited, hours, promote=promote))


FLOWS: dict[str, Any] = {"pipeline": pipeline, "validate": validate, "train-prompter": train_prompter, "pretrain": pretrain,
         "finetune": finetune, "evaluate": evaluate, "promote": promote}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(FLOWS))
