"""Takes the hosts of a run from a Slurm allocation: in a batch script, or in the shell of `salloc`."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping

from alpro.config import Launch
from alpro.errors import LaunchError
from alpro.system.place import expanded_tasks

ANSWER_S = 60


def with_allocation(settings: Launch) -> Launch:
    """Return the settings with the hosts of the Slurm allocation in which this process runs, to be reached by srun.

    They are returned as they are outside of an allocation, with `hosts` or `discovery`, or for one process. Each node has as
    many slots as it has GPUs in the allocation, otherwise as it has tasks; `processes: null` takes all. Raises LaunchError if
    the allocation is too small, or if this is one of several tasks of `srun`.
    """
    variables = os.environ
    nodes = variables.get("SLURM_JOB_NODELIST")
    if not nodes or settings.hosts or settings.discovery or settings.processes == 1:
        return settings
    if int(variables.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        raise LaunchError(
            "`srun` started `alpro launch` several times; start it once for all processes, without srun, or start the command "
            "after `--` with srun and without `alpro launch`"
        )
    hosts = host_names(nodes)
    slots = slots_of(variables, len(hosts))
    available = sum(slots)
    processes = settings.processes or available
    if processes > available:
        raise LaunchError(
            f"launch.processes is {processes}, but job {variables.get('SLURM_JOB_ID')} has room for {available} "
            f"({', '.join(map(str, slots))} on {nodes}); ask Slurm for more with --gpus-per-node or --ntasks-per-node, "
            "or set launch.processes=null"
        )
    entries = ",".join(f"{host}:{number}" for host, number in zip(hosts, slots, strict=True) if number)
    return Launch(
        **{**settings.model_dump(), "hosts": entries, "processes": processes, "remote_shell": "srun", "scheduler": None}
    )


def host_names(nodes: str) -> list[str]:
    """Return the names in a node list of Slurm, `node[03-07,09]`. Raises LaunchError if Slurm's `scontrol` fails."""
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise LaunchError(f"SLURM_JOB_NODELIST={nodes}: `{' '.join(command)}` fails ({error}); set launch.hosts") from None
    return done.stdout.split()


def slots_of(variables: Mapping[str, str], nodes: int) -> list[int]:
    """Return the number of processes for each node of an allocation: one per GPU, otherwise one per task."""
    per_node = _number(variables.get("SLURM_GPUS_PER_NODE", ""))
    total = _number(variables.get("SLURM_GPUS", ""))
    on_this = _number(variables.get("SLURM_GPUS_ON_NODE", ""))
    gpus = per_node or (total // nodes if total and total % nodes == 0 else None) or on_this
    if gpus:
        return [gpus] * nodes
    tasks = expanded_tasks(variables.get("SLURM_TASKS_PER_NODE", ""))
    return tasks if len(tasks) == nodes else [1] * nodes


def _number(text: str) -> int | None:
    """Return the sum of the numbers in a request for GPUs, `4`, `a100:4` or `a100:2,v100:1`; None if it has none."""
    numbers = [int(number) for number in re.findall(r"(?:^|[:,])(\d+)(?=,|$)", text)]
    return sum(numbers) or None
