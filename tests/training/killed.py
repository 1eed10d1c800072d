"""`alpro VERB...` that kills its own process at a chosen point: `python -m tests.training.killed POINT COUNT VERB...`.

POINT is one of POINTS; COUNT says at which of its occurrences, on the last rank or, where only the first one writes, on that.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

POINTS = ("none", "step", "validation", "save", "manifest", "renamed")


def arm(point: str, count: int) -> None:
    """Make this process kill itself at an occurrence of a point."""
    from alpro import distributed
    from alpro.files import atomic as files
    from alpro.launch import heartbeat
    from alpro.training import snapshots as state

    left = [count]

    def here(last_rank: bool = False) -> None:
        if last_rank and distributed.rank() != distributed.size() - 1:
            return
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    beat, write, replace = heartbeat.beat, state.write_json, os.replace

    def beating(what: str, *place: Any) -> None:
        beat(what, *place)
        if (what, point) in (("exchange", "step"), ("validation", "validation")):
            here(last_rank=True)  # gradients are there, the step is not done; some clips or batches are validated

    def writing(path: Any, value: Any) -> None:
        if point == "save" and path.name == "facts.json":
            here()  # the tensors are written
        write(path, value)
        if point == "manifest" and path.name == state.MANIFEST:
            here()  # all is written, and nothing has its name

    def replacing(old: Any, new: Any) -> None:
        replace(old, new)
        if point == "renamed" and os.path.basename(new).startswith(("step-", "best-")):
            here()  # older ones are still there

    heartbeat.beat, state.write_json = beating, writing  # type: ignore[assignment]
    files.os.replace = replacing  # type: ignore[attr-defined]


def main(point: str, count: str, *verb: str) -> None:
    arm(point, int(count))
    from alpro.cli.main import app

    app(list(verb), standalone_mode=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
