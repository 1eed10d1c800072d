"""A planned toy training on one process of a world, optionally stopped at a step. Arguments: FOLDER STOP_AT."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from alpro import distributed
from alpro.errors import TrainingError
from alpro.files.json_files import write_json
from alpro.launch import heartbeat
from alpro.training.checkpointer import Checkpointer
from alpro.training.engine import Engine
from alpro.training.log import Log
from alpro.training.sample_log import SampleLog
from alpro.training.snapshots import SnapshotStore
from tests.training.elastic_world import SEED, PlannedTask
from tests.training.toy import ToyBatch, settings

SAMPLES = 83


class StoppedTask(PlannedTask):
    stop_at = 0

    def __iter__(self) -> Iterator[tuple[int, ToyBatch]]:
        for step, batch in super().__iter__():
            if step == self.stop_at - 2:
                heartbeat.ask_to_stop()  # read when the next step begins
            yield step, batch


def train(folder: Path, stop_at: int = 0) -> None:
    """Train; write the result to FOLDER/result.json and the samples to FOLDER/samples.jsonl."""
    first = distributed.rank() == 0
    task = StoppedTask(SAMPLES, 0)
    task.stop_at = stop_at
    store = SnapshotStore(folder / "state") if first else None
    checkpointer = Checkpointer(store, SampleLog(folder / "samples.jsonl") if first else None)
    engine = Engine(task, settings(validations=2), seed=SEED, checkpointer=checkpointer, log=Log(shown=first))
    try:
        engine.run()
    except TrainingError as error:
        if not stop_at or "as requested" not in str(error):
            raise
    finally:
        if store is not None:
            store.close()
    result = {"step": engine.step, "worlds": engine.worlds, "read": distributed.gather_objects(task.read)}
    if first:
        write_json(folder / "result.json", {**result, "history": engine.log.history})


if __name__ == "__main__":
    distributed.init()
    train(Path(sys.argv[1]), int(sys.argv[2]))
    distributed.barrier()
    distributed.shutdown()
