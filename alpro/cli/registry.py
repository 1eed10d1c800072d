"""`alpro track`, `register`, `promote`, `rollback`, `lineage` and `reproduce`: MLflow and its model registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpro.cli.app import add_group, app
from alpro.cli.options import PARAMS, Candidates, Experiment, Flow, ParamsFile, Task, listed

group = add_group("track", "MLflow: fill in what is missing, show what is there.")


@group.command("sync")
def track_sync(
    params: ParamsFile = PARAMS, flow: Flow = None, experiment: Experiment = None, candidates: Candidates = None
) -> None:
    """Fill the MLflow store with the runs and checkpoints that it lacks."""
    from alpro import registry
    from alpro.config import load
    from alpro.registry.sync import sync

    given = registry.made_by(flow, experiment)
    typer.echo(str(sync(Path.cwd(), load(params), tags=given, candidates=listed(candidates))))


@group.command("status")
def track_status(params: ParamsFile = PARAMS) -> None:
    """Show what the MLflow store has of this checkout's results."""
    from alpro.config import load
    from alpro.registry.status import status

    typer.echo(str(status(Path.cwd(), load(params))))


@app.command()
def register(
    params: ParamsFile = PARAMS,
    flow: Flow = None,
    experiment: Experiment = None,
    candidates: Candidates = None,
) -> None:
    """Register the pipeline's checkpoints in MLflow, with where they come from."""
    from alpro import registry
    from alpro.config import load

    given = registry.made_by(flow, experiment)
    typer.echo(str(registry.register(Path.cwd(), load(params), tags=given, candidates=listed(candidates))))


@app.command()
def promote(
    task: Task,
    version: Annotated[str | None, typer.Option(help="This version, and not the one that `candidate` names.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the gate says.")] = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Make the candidate the champion, if it is better on the same data. Exit code 1: refused, nothing moved."""
    from alpro import registry
    from alpro.config import load

    done = registry.promote(Path.cwd(), load(params), task, version=version, dry_run=dry_run)
    typer.echo(str(done))
    raise typer.Exit(0 if done.passed else 1)


@app.command()
def rollback(task: Task) -> None:
    """Make the champion before the champion again."""
    from alpro import registry

    was, now = registry.rollback(Path.cwd(), task)
    typer.echo(f"alpro-{task}@champion: version {was} -> {now}")


@app.command()
def lineage(model: Annotated[str, typer.Argument(help="models:/alpro-TASK@champion, or models:/alpro-TASK/NUMBER.")]) -> None:
    """Tell where a registered model comes from, and how to bring that state back."""
    from alpro.registry import lineage as chain

    typer.echo(chain.trace(Path.cwd(), model))


@app.command()
def reproduce(
    model: Annotated[str, typer.Argument(help="models:/alpro-TASK@champion, or models:/alpro-TASK/NUMBER.")],
    train: Annotated[bool, typer.Option("--train", help="Train it anew too, and all that it was trained from.")] = False,
) -> None:
    """Evaluate a registered model anew in a clean worktree of its commit. Exit code 1: a figure differs."""
    from alpro.registry.reproduce import reproduce as run

    done = run(Path.cwd(), model, train=train, say=typer.echo)
    typer.echo(str(done))
    raise typer.Exit(0 if done.same else 1)
