"""Sections of params.yaml on processes, hosts, data loading and the display of running trainings."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from alpro.config.base import FilePath, Fraction, Hosts, Interface, KeyFile, Section
from alpro.config.slurm import Slurm


class Launch(Section):
    """Processes and hosts of the stages that train and evaluate."""

    processes: PositiveInt | None = Field(
        1,
        description="Number of processes on all hosts; null: one per GPU of this machine, or two without a GPU; in a Slurm "
        "allocation or job one per GPU or task of its nodes.",
    )
    backend: Literal["horovod", "torch"] = Field(
        "horovod",
        description="Library through which the processes exchange tensors: Horovod, or torch.distributed, which is part of "
        "torch. Elastic runs need Horovod. Several processes give other last bits with the other backend.",
    )
    hosts: Hosts | None = Field(
        None,
        description="Hosts and their numbers of processes, `name:slots,...`; null: those of Slurm, or this machine.",
    )
    network_interfaces: list[Interface] | None = Field(
        None,
        min_length=1,
        description="Interfaces (`eth1`) or networks (`10.1.0.0/16`) between the hosts; each host uses the first that it has. "
        "null: the interface that leads to the launcher.",
    )
    remote_shell: Literal["ssh", "srun"] = Field(
        "ssh", description="Program that starts processes on other hosts. Those of a Slurm allocation are reached by srun."
    )
    ssh_port: int | None = Field(None, ge=1, le=65535, description="Port of ssh on the hosts; null: as ssh is configured.")
    ssh_identity: KeyFile | None = Field(
        None, description="File with the private key for ssh to the hosts; null: as ssh is configured."
    )
    scheduler: Literal["slurm"] | None = Field(
        None,
        description="`slurm`: outside of a Slurm allocation, each stage that trains or evaluates is a job of its own; null: it "
        "runs here.",
    )
    slurm: Slurm = Field(Slurm(), description="The jobs of `scheduler: slurm`.")
    threads: PositiveInt = Field(1, description="CPU threads per process.")
    compile: bool = Field(
        False,
        description="Compile the blocks of the video encoder with torch.compile, in training; it needs a compiler. The results "
        "differ in the last bits.",
    )
    start_timeout_s: PositiveFloat = Field(120, description="Give up if the processes have not connected after this time.")
    stall_timeout_s: PositiveFloat = Field(1800, description="Stop the run if no process makes progress for this time.")
    min_processes: PositiveInt | None = Field(
        None, description="Elastic runs: continue while this many processes remain; null: a lost process ends the run."
    )
    max_processes: PositiveInt | None = Field(None, description="Elastic runs: maximum number of processes; null: `processes`.")
    discovery: FilePath | None = Field(
        None, description="Elastic runs: program that prints the available hosts, one `name:slots` per line; null: `hosts`."
    )
    commit_every: PositiveInt = Field(
        10, description="Elastic runs: steps between commits; steps after the last commit are repeated."
    )
    sample_log: str | None = Field(
        None, description="File to which the sample ids of each committed step are written; null: none."
    )

    @property
    def world_size(self) -> int:
        """The world size: `processes`, or its default on this machine."""
        from alpro.system import gpus

        if self.scheduler == "slurm":
            nodes = self.slurm.nodes
            return self.processes or nodes * (self.slurm.gpus_per_node or 0) or max(2, nodes)
        return self.processes or gpus.count() or 2

    @property
    def tasks_per_node(self) -> int:
        """Number of processes on each node of a job of `slurm`."""
        return math.ceil(self.world_size / self.slurm.nodes)

    @property
    def slots(self) -> list[tuple[str, int]]:
        """Names and slots of `hosts`, in order; empty for this machine."""
        entries = (entry.rsplit(":", 1) for entry in (self.hosts or "").split(",") if entry)
        return [(name, int(slots)) for name, slots in entries]

    @model_validator(mode="after")
    def _check_processes(self) -> Launch:
        for name in ("hosts", "min_processes"):
            if self.processes is None and getattr(self, name) is not None:
                raise ValueError(f"launch.{name} needs launch.processes, the number of processes on all hosts")
        return self

    @model_validator(mode="after")
    def _check_hosts(self) -> Launch:
        names = [name for name, _ in self.slots]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"launch.hosts names {twice[0]} twice; give it all its slots at once")
        available = sum(slots for _, slots in self.slots)
        if names and self.discovery is None and self.world_size > available:
            raise ValueError(f"launch.hosts has {available} slots, but launch.processes is {self.world_size}")
        return self

    @model_validator(mode="after")
    def _check_scheduler(self) -> Launch:
        if self.scheduler is None:
            return self
        for name in ("hosts", "min_processes"):
            if getattr(self, name) is not None:
                raise ValueError(f"launch.{name}: Slurm chooses the hosts of a job; set it or launch.scheduler to null")
        nodes, gpus = self.slurm.nodes, self.slurm.gpus_per_node
        if self.world_size < nodes:
            raise ValueError(f"launch.slurm.nodes is {nodes}, but launch.processes is {self.processes}; each node needs one")
        if gpus and self.tasks_per_node > gpus:
            raise ValueError(
                f"launch.processes is {self.processes}, but launch.slurm asks for {nodes} x {gpus} GPUs; give each process one"
            )
        return self

    @model_validator(mode="after")
    def _check_backend(self) -> Launch:
        if self.backend == "torch":
            for name in ("min_processes", "max_processes", "discovery"):
                if getattr(self, name) is not None:
                    raise ValueError(f"launch.{name}: elastic runs need launch.backend=horovod; set it, or set {name} to null")
        return self

    @model_validator(mode="after")
    def _check_elastic(self) -> Launch:
        if self.min_processes is None:
            for name in ("max_processes", "discovery"):
                if getattr(self, name) is not None:
                    raise ValueError(f"launch.{name} has no effect without launch.min_processes")
        elif not self.min_processes <= self.world_size <= (self.max_processes or self.world_size):
            raise ValueError("launch.processes must be between launch.min_processes and launch.max_processes")
        elif self.hosts is None and self.discovery is None:
            raise ValueError("launch.min_processes needs launch.hosts or launch.discovery, as Horovod drops whole hosts")
        return self


class Loader(Section):
    """How samples are loaded."""

    workers: int = Field(0, ge=0, description="Loader processes per training process; 0: load in the training process.")
    prefetch: PositiveInt = Field(2, description="Batches that each loader process prepares ahead.")
    max_unreadable: Fraction = Field(
        0.001, ge=0, le=1, description="Stop the training if a larger fraction of samples cannot be read."
    )
    decoder: Literal["decord", "pyav", "torchcodec", "nvdec"] = Field(
        "decord",
        description="Decoder of videos; PyAV reads what it cannot. torchcodec needs the extra of this name and FFmpeg; nvdec "
        "is torchcodec on an NVIDIA GPU, and needs `workers: 0`.",
    )
    cache: str | None = Field(
        None,
        min_length=1,
        description="Folder on a local disk for decoded frames, which all stages share; null: none. It never changes a result. "
        "Frames that are drawn anew in each epoch are kept only with `frame_candidates`.",
    )
    cache_gb: PositiveFloat = Field(
        10, description="Maximum size of `cache`, in GB of pixels; clips beyond it are decoded each time they are read."
    )

    @model_validator(mode="after")
    def _check_nvdec(self) -> Loader:
        if self.decoder == "nvdec" and self.workers:
            raise ValueError("loader.decoder nvdec needs loader.workers 0: a forked process cannot use the GPU of its parent")
        return self


class Tracking(Section):
    """The display of running trainings besides their MLflow run. It changes no result, so no stage runs again for it."""

    system_metrics: bool = Field(
        False, description="Log the use of CPU, memory, disk, network and GPU of rank 0's machine to the MLflow run."
    )
    tensorboard: FilePath | None = Field(
        None, description="Folder for TensorBoard's files, `<folder>/<stage>/<fingerprint>`; null: none. Needs TensorBoard."
    )
