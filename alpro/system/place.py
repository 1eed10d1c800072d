"""This process's place in a world of several processes, as its starter wrote it into the environment.

`horovodrun` and `alpro launch` with `launch.backend=horovod` set `HOROVOD_RANK`; `torchrun` and `alpro launch` with
`launch.backend=torch` set `RANK`; `srun` sets `SLURM_PROCID`. The starter decides which backend the ranks use.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Starter = Literal["horovodrun", "torchrun", "srun"]

STORE, TCP = "ALPRO_STORE", "tcp://"  # file or `tcp://host:port` through which the ranks of `alpro launch` find each other
# rank, size, rank on the host and size on the host
OF_HOROVOD = ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE")
OF_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
OF_SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
SLURM_PORTS = range(20000, 30000)  # from which the id of the job chooses one


@dataclass(frozen=True)
class Place:
    """A rank's number among all processes, and among those of its host."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    starter: Starter | None


ALONE = Place(0, 1, 0, 1, None)


def current() -> Place | None:
    """Return the place of this process; None if no starter of several processes has started it."""
    if _number("HOROVOD_RANK") is not None or _number("HOROVOD_SIZE") is not None:
        return _place("horovodrun", *map(_number, OF_HOROVOD))
    meeting_point = STORE in os.environ or {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if meeting_point and _number("RANK") is not None and _number("WORLD_SIZE") is not None:
        return _place("torchrun", *map(_number, OF_TORCH))
    # a batch script has SLURM_PROCID too, but only the processes of `srun` have the variables of a step
    if _number("SLURM_PROCID") is not None and _number("SLURM_STEP_NUM_TASKS") is not None:
        tasks, node = expanded_tasks(os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")), _number("SLURM_NODEID") or 0
        return _place("srun", *map(_number, OF_SLURM), tasks[node] if node < len(tasks) else None)
    return None


def forget() -> None:
    """Remove this process's place from the environment, so that it is a world of one."""
    for name in (*OF_HOROVOD, "HOROVOD_ELASTIC", *OF_TORCH, *OF_SLURM):
        os.environ.pop(name, None)


def slurm_meeting_point(variables: Mapping[str, str]) -> tuple[str, int]:
    """Return host and port at which the processes of a step of Slurm meet, from MASTER_ADDR and MASTER_PORT if they are set.

    By default it is the first host of the step, where rank 0 runs, and a port that the job's and the step's ids choose.
    """
    host = variables.get("MASTER_ADDR") or first_host(variables.get("SLURM_STEP_NODELIST", "")) or "127.0.0.1"
    port = variables.get("MASTER_PORT", "")
    number = sum(int(variables[name]) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID") if variables.get(name, "").isdigit())
    return host, int(port) if port.isdigit() else SLURM_PORTS[number % len(SLURM_PORTS)]


def first_host(hosts: str) -> str:
    """Return the first of Slurm's hosts: `node[03-07,09],other` -> `node03`."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", hosts)[0])


def expanded_tasks(tasks: str) -> list[int]:
    """Return the number of processes of each node, in order: `2(x3),1` -> [2, 2, 2, 1]."""
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks)
    return list(itertools.chain.from_iterable([int(number)] * int(times or 1) for number, times in groups))


def _place(starter: Starter, *numbers: int | None) -> Place:
    """Return a place of these numbers, in order; a missing one stands for a world or host of one process."""
    rank, size, local_rank, local_size = numbers
    return Place(rank or 0, size or 1, local_rank or 0, local_size or 1, starter)


def _number(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else None
