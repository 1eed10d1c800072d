"""Places and memory that the trainings and evaluations of the pipeline take (`alpro plan --stages`).

The flows let runs wait for each other by these figures (flows/slots.py). They are estimates: of an evaluation, the weights and
what one batch of the training would store, and of each process what Python, torch and the decoder take.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from alpro.config import Params
from alpro.launch.ssh import is_remote
from alpro.planning.memory import training_memory
from alpro.planning.published import ANSWERS
from alpro.system import gpus, memory

MACHINE = "ALPRO_MACHINE"  # environment variable: name of this machine, for containers
PROCESS_BYTES = 1e9  # of Python and the libraries, and on a GPU of its context
LOADER_BYTES = 0.5e9  # of a loader process, in main memory
UNKNOWN_ANSWERS = 2_000  # the answer list of a set is made before its training; its size hardly matters here
Memory = Literal["main memory", "memory of each GPU"]


@dataclass(frozen=True, slots=True)
class StageNeeds:
    """Needs of a stage. `machines`: where it runs; none if Slurm decides. `here_bytes`: the memory that it takes here."""

    stage: str  # its name in DVC, for example finetune@msvd_qa
    trains: bool
    machines: tuple[str, ...]
    here_bytes: float


@dataclass(frozen=True, slots=True)
class Needs:
    """Needs of all trainings and evaluations, and this machine with its memory."""

    machine: str
    memory: Memory
    memory_bytes: float
    stages: tuple[StageNeeds, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the needs as plain JSON types (`alpro plan --stages --json`)."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.machine}: {self.memory_bytes / 1e9:.0f} GB of {self.memory}"]
        for entry in self.stages:
            where = ", ".join(entry.machines) or "a Slurm job"
            takes = f", {entry.here_bytes / 1e9:.1f} GB here" if entry.here_bytes else ""
            lines.append(f"  {entry.stage}: {'training' if entry.trains else 'evaluation'} on {where}{takes}")
        return "\n".join(lines)


def this_machine() -> str:
    """Return the name of this machine: ALPRO_MACHINE, or the host name."""
    return os.environ.get(MACHINE) or socket.gethostname()


def stage_needs(params: Params) -> Needs:
    """Return the needs of the trainings and evaluations that params.yaml describes."""
    gpu_bytes = gpus.memory_bytes() if gpus.count() else None
    kind: Memory = "main memory" if gpu_bytes is None else "memory of each GPU"
    machines, here = _places(params)
    workers = params.loader.workers if gpu_bytes is None else 0
    shared = here if gpu_bytes is None else min(here, 1)  # each process has a GPU of its own
    stages = [
        StageNeeds(stage, trains, machines, shared * (PROCESS_BYTES + workers * LOADER_BYTES + size))
        for stage, trains, size in _sizes(params)
    ]
    return Needs(this_machine(), kind, gpu_bytes or memory.total_bytes(), tuple(stages))


def _places(params: Params) -> tuple[tuple[str, ...], int]:
    """Return the machines on which a stage runs, and the number of its processes on this one."""
    launch, own = params.launch, this_machine()
    if launch.scheduler == "slurm":
        return (), 0
    if not launch.slots:
        return (own,), launch.world_size
    local = {name: slots for name, slots in launch.slots if not is_remote(name)}
    names = dict.fromkeys(own if name in local else name for name, _ in launch.slots)
    return tuple(names), sum(local.values())


def _sizes(params: Params) -> Iterator[tuple[str, bool, float]]:
    """Yield each stage's name, True if it trains, and the bytes that its model takes in each process."""
    entities = params.entities.number if params.pem else 0
    yield "prompter", True, training_memory("prompter", params.model, params.prompter, num_entities=0)[-1].peak
    yield "pretrain", True, training_memory("pretrain", params.model, params.pretrain, num_entities=entities)[-1].peak
    for name, dataset in params.datasets.items():
        heads = {"num_answers": ANSWERS.get(name, UNKNOWN_ANSWERS)} if dataset.task == "qa" else {}
        *_, estimate = training_memory(dataset.task, params.model, params.finetune[name], **heads)
        evaluation = estimate.weights + estimate.frozen + estimate.activations
        yield f"finetune@{name}", True, estimate.peak
        if name in params.evaluate:
            yield f"evaluate@{name}", False, evaluation
        if name in params.zeroshot:
            yield f"zeroshot@{name}", False, evaluation
