"""`alpro track`, `register`, `promote`, `rollback`, `lineage` and `reproduce`: MLflow and its model registry."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alpro.cli.app import REGISTRY, add_group, app, example_line
from alpro.cli.options import PARAMS, AsJson, Candidates, Experiment, Flow, ParamsFile, Task, print_json, split_list

if TYPE_CHECKING:
    from alpro.registry import Promotion
    from alpro.registry.lineage import Lineage
    from alpro.tracking.mlflow_runs import SyncResult

ModelUri = Annotated[str, typer.Argument(help="models:/alpro-TASK@champion or models:/alpro-TASK/NUMBER.")]

group = add_group("track", "Fill the MLflow store and show its state.", REGISTRY)


@group.command("sync", epilog=example_line("track sync"))
def track_sync(
    params: ParamsFile = PARAMS,
    flow: Flow = None,
    experiment: Experiment = None,
    candidates: Candidates = None,
    as_json: AsJson = False,
) -> None:
    """Add missing runs and checkpoints to the MLflow store."""
    from alpro import registry
    from alpro.config import load

    with only_json_on_stdout(as_json):
        tags = registry.origin_tags(flow, experiment)
        result = registry.sync(Path.cwd(), load(params), tags=tags, candidates=split_list(candidates))
    _show(result, as_json)


@group.command("status", epilog=example_line("track status"))
def track_status(params: ParamsFile = PARAMS) -> None:
    """Show which results of this checkout are in the MLflow store."""
    from alpro import registry
    from alpro.config import load

    typer.echo(str(registry.status(Path.cwd(), load(params))))


@app.command(rich_help_panel=REGISTRY, epilog=example_line("register"))
def register(
    params: ParamsFile = PARAMS,
    flow: Flow = None,
    experiment: Experiment = None,
    candidates: Candidates = None,
    as_json: AsJson = False,
) -> None:
    """Register the pipeline's checkpoints in MLflow, with their origin."""
    from alpro import registry
    from alpro.config import load

    with only_json_on_stdout(as_json):
        tags = registry.origin_tags(flow, experiment)
        result = registry.register(Path.cwd(), load(params), tags=tags, candidates=split_list(candidates))
    _show(result, as_json)


@app.command(rich_help_panel=REGISTRY, epilog=example_line("promote --task msvd_qa --dry-run"))
def promote(
    task: Task,
    version: Annotated[
        str | None, typer.Option(help="Number of the version to promote (default: the one with alias `candidate`).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report the gate's decision; move no alias.")] = False,
    params: ParamsFile = PARAMS,
    as_json: AsJson = False,
) -> None:
    """Make the candidate the champion if it is better on the same data. Exit code 1: refused, no alias was moved."""
    from alpro import registry
    from alpro.config import load

    with only_json_on_stdout(as_json):
        result = registry.promote(Path.cwd(), load(params), task, version=version, dry_run=dry_run)
    _show(result, as_json)
    raise typer.Exit(0 if result.passed else 1)


@app.command(rich_help_panel=REGISTRY, epilog=example_line("rollback --task msvd_qa"))
def rollback(task: Task) -> None:
    """Make the previous champion the champion again."""
    from alpro import registry

    before, now = registry.rollback(Path.cwd(), task)
    typer.echo(f"alpro-{task}@champion: version {before} -> {now}")


@app.command(rich_help_panel=REGISTRY, epilog=example_line("lineage models:/alpro-msvd_qa@champion"))
def lineage(model: ModelUri, as_json: AsJson = False) -> None:
    """Show the origin of a registered model, and the commands that restore its state."""
    from alpro.registry.lineage import trace

    with only_json_on_stdout(as_json):
        result = trace(Path.cwd(), model)
    _show(result, as_json)


@app.command(rich_help_panel=REGISTRY, epilog=example_line("reproduce models:/alpro-msvd_qa/1"))
def reproduce(
    model: ModelUri,
    train: Annotated[bool, typer.Option("--train", help="Also train it again, and every model it was trained from.")] = False,
) -> None:
    """Evaluate a registered model again in a clean worktree of its commit. Exit code 1: a metric differs."""
    from alpro.registry.reproduce import reproduce as run

    result = run(Path.cwd(), model, train=train, say=typer.echo)
    typer.echo(str(result))
    raise typer.Exit(0 if result.same else 1)


def _show(result: SyncResult | Promotion | Lineage, as_json: bool) -> None:
    """Print a result as text, or as one JSON document."""
    if as_json:
        print_json(result.as_dict())
    else:
        typer.echo(str(result))


@contextmanager
def only_json_on_stdout(as_json: bool) -> Iterator[None]:
    """With `as_json`, send everything that the block and its child processes print to stderr."""
    if not as_json:
        yield
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
