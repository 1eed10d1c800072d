"""One process of an elastic world: a toy training over planned samples. Arguments: FOLDER SAMPLES SECONDS_PER_STEP.

Rank 0 logs the samples of every committed step. Each process writes its rank and host to FOLDER/processes/<pid>.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from alpro import distributed
from alpro.data.batches.sampler import BatchPlan
from alpro.training.checkpointer import Checkpointer
from alpro.training.engine import Engine
from alpro.training.log import Log
from alpro.training.sample_log import SampleLog
from alpro.training.snapshots import SnapshotStore
from alpro.training.task import Best
from tests.training.toy import ITEMS, WIDTH, ToyBatch, ToyModel, settings

BATCH, SEED, COMMIT_EVERY = 2, 3, 4


def planned(samples: int, processes: int) -> BatchPlan:
    return BatchPlan({"toy": samples}, BATCH, processes, epochs=1, seed=SEED)


class PlannedTask:
    losses, metrics, flops_per_clip = ("contrast", "items"), ("score",), 0.0

    def __init__(self, samples: int, sleep_s: float) -> None:
        self.model, self.samples, self.sleep_s = ToyModel(dropout=0.1), samples, sleep_s

    def plan_for(self, worlds: Any) -> int:
        self.plan = planned(self.samples, worlds[0][1])
        for step, processes in worlds[1:]:
            self.plan = self.plan.resized(step, processes)
        return self.plan.total_steps

    def epoch_of(self, step: int) -> int:
        return self.plan.epoch_of(step)

    def loader(self, start: int, stop: int) -> PlannedTask:
        self.steps, self.read = range(start, stop), 0
        return self

    counts = 0, 0

    def check_unreadable(self, left_out: int, read: int) -> None:
        pass

    def __iter__(self) -> Iterator[tuple[int, ToyBatch]]:
        for step in self.steps:
            rows = self.plan.local(step, distributed.rank()).indices
            time.sleep(self.sleep_s)
            self.read += len(rows)
            g = torch.Generator().manual_seed(int(rows[0]))
            x, y = torch.randn(2, len(rows), WIDTH, generator=g)
            yield step, ToyBatch([f"toy/{row}" for row in rows], x, y, torch.zeros(len(rows), ITEMS, dtype=torch.long))

    def state_dict(self) -> dict[str, Any]:
        return {"read": self.read}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.read += state["read"]

    def validate(self) -> dict[str, float]:
        return {"score": float(self.model.left.weight.sum().abs())}


def main(folder: Path, samples: int, sleep_s: float) -> None:
    distributed.init()
    (folder / "processes" / str(os.getpid())).write_text(f"{distributed.rank()} {os.environ['HOROVOD_HOSTNAME']}")
    checkpointer = Checkpointer(commit_every=COMMIT_EVERY)
    engine = Engine(PlannedTask(samples, sleep_s), settings(validations=2), seed=SEED, checkpointer=checkpointer, log=Log())

    def attempt(check: Callable[[], None]) -> Best:
        checkpointer.on_commit = check
        if distributed.rank() == 0:
            checkpointer.store = checkpointer.store or SnapshotStore(folder / "state")
            checkpointer.samples, engine.log.shown = SampleLog(folder / "samples.jsonl"), True
        return engine.run()

    distributed.run_elastic(attempt, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
