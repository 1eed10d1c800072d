"""alpro/config/machine.py: NEW MODULE."""

from __future__ import annotations

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from alpro.config.base import Fraction, Section

# --- the machine ------------------------------------------------------------------------------------------


class Launch(Section):
    """On how many processes and hosts the stages that train and evaluate run."""

    processes: PositiveInt | None = Field(
        1, description="Number of processes over all hosts; null: one for each GPU of this machine, two where it has none."
    )
    hosts: str | None = Field(None, description="Horovod's host list, `name:slots,...`; null: this machine.")
    threads: PositiveInt = Field(1, description="CPU threads of each process.")
    start_timeout_s: PositiveFloat = Field(120, description="Give up when the processes have not met by then.")
    stall_timeout_s: PositiveFloat = Field(1800, description="End the run when a process shows no progress so long.")
    min_processes: PositiveInt | None = Field(
        None, description="Elastic: go on while so many processes are left; null: a lost process ends the run."
    )
    max_processes: PositiveInt | None = Field(None, description="Elastic: take in so many at the most; null: `processes`.")
    discovery: str | None = Field(
        None, description="Elastic: a program that prints the hosts there are, `name:slots` a line; null: those of `hosts`."
    )
    commit_every: PositiveInt = Field(10, description="Elastic: steps between two commits; those after the last are redone.")
    sample_log: str | None = Field(None, description="File for the ids of the samples of each committed step; null: none.")

    @property
    def world(self) -> int:
        """How many processes `processes` means here: the world size."""
        from alpro.system import gpus

        return self.processes or gpus.count() or 2

    @model_validator(mode="after")
    def _processes_are_said(self) -> Launch:
        for name in ("hosts", "min_processes"):
            if self.processes is None and getattr(self, name) is not None:
                raise ValueError(f"launch.{name} needs launch.processes: how many over all hosts")
        return self

    @model_validator(mode="after")
    def _elastic(self) -> Launch:
        if self.min_processes is None:
            for name in ("max_processes", "discovery"):
                if getattr(self, name) is not None:
                    raise ValueError(f"launch.{name} means nothing without launch.min_processes")
        elif not self.min_processes <= self.world <= (self.max_processes or self.world):
            raise ValueError("launch.processes must lie between launch.min_processes and launch.max_processes")
        elif self.hosts is None and self.discovery is None:
            raise ValueError("launch.min_processes needs launch.hosts or launch.discovery: Horovod gives up a host as a whole")
        return self


class Loader(Section):
    """How samples are read."""

    workers: int = Field(0, ge=0, description="Reading processes of each training process; 0 reads in the process itself.")
    prefetch: PositiveInt = Field(2, description="Batches that each worker keeps ready.")
    max_unreadable: Fraction = Field(0.001, ge=0, le=1, description="Training stops when a larger share can't be read.")
