"""`alpro launch`: run another command on several processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alpro.cli.app import MODELS, app, example_line
from alpro.cli.options import PARAMS, ParamsFile
from alpro.errors import LaunchError, TrainingError

if TYPE_CHECKING:
    from alpro.config import Params


@app.command(
    rich_help_panel=MODELS,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=example_line("launch -- evaluate --task msvd_qa --checkpoint models/sample/finetune/msvd_qa --record evaluation"),
)
def launch(
    command: Annotated[
        list[str] | None, typer.Argument(help="An alpro command that trains or evaluates, with its options.")
    ] = None,
    params: ParamsFile = PARAMS,
    check: Annotated[bool, typer.Option("--check", help="Check all hosts, print a line for each, and start nothing.")] = False,
) -> None:
    """Run another command on the processes and hosts of `launch` in params.yaml. Exit code 1 if one fails.

    Before a run on several hosts they are checked, as by --check.
    """
    from alpro.config import load
    from alpro.launch import sbatch, slurm_job
    from alpro.system import parent

    if not command and not check:
        raise typer.BadParameter("give an alpro command after `--`, such as `launch -- train pretrain ...`, or --check")
    loaded = load(params)
    parent.watch_pipeline()
    try:
        if sbatch.is_wanted(loaded.launch):
            if command:
                sbatch.run_job(loaded, params, command)
            else:
                typer.echo(sbatch.test(loaded, params))
        elif slurm_job.is_submitted() and command:
            _run_in_job(loaded, params, command)
        else:
            _run(loaded, params, command, check)
    except LaunchError as error:
        typer.echo(f"alpro: {error}", err=True)
        raise typer.Exit(1) from None


def _run(loaded: Params, params: Path, command: list[str] | None, check: bool = False) -> None:
    """Check the hosts, or run the command on them."""
    from alpro.launch import elastic, hosts, run, slurm
    from alpro.launch.ssh import is_remote

    settings = slurm.with_allocation(loaded.launch)
    named = elastic.with_discovered_hosts(settings)
    if check:
        found = hosts.check(named, loaded, params)
        typer.echo("\n".join(map(str, found)) + hosts.advice(found).replace(" | ", "\n", 1))
        raise typer.Exit(int(any(host.faults for host in found)))
    assert command is not None
    if run.in_this_process(settings):
        run.set_threads(settings.threads)
        app(command, standalone_mode=False)
        return
    if any(is_remote(name) for name, _ in named.slots):
        for host in hosts.require(named, loaded, params):
            run.log.info("alpro launch: %s", host)
    run.run_world(settings, [sys.executable, "-m", "alpro", *command], params)


def _run_in_job(loaded: Params, params: Path, command: list[str]) -> None:
    """Run the command in a Slurm job that `launch.scheduler` submitted.

    The job requeues itself if it was stopped in time, or has lost a node.
    """
    from alpro.launch import slurm_job
    from alpro.launch.supervisor import HostLost, Stopped

    slurm_job.heed_warning()
    try:
        _run(loaded, params, command)
    except (Stopped, TrainingError) as error:
        if slurm_job.warned.is_set() and (isinstance(error, TrainingError) or error.saved):
            slurm_job.requeue("the training is saved")
        raise
    except HostLost:
        slurm_job.requeue("a node of this job is lost")
        raise
