"""`alpro VERB...` that kills its own process at a chosen point: `python -m tests.training.killed POINT COUNT VERB...`.

POINT is one of POINTS, COUNT the occurrence at which to kill. The last rank is killed, or rank 0 at points at which only
it writes.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

POINTS = ("none", "step", "validation", "save", "manifest", "renamed")


def arm(point: str, count: int) -> None:
    """Make this process kill itself at the given occurrence of a point."""
    from alpro import distributed
    from alpro.files import atomic as files
    from alpro.launch import heartbeat
    from alpro.training import snapshots

    left = [count]

    def here(last_rank: bool = False) -> None:
        if last_rank and distributed.rank() != distributed.size() - 1:
            return
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    beat, write, replace = heartbeat.beat, snapshots.write_json, os.replace

    def beating(what: str, *progress: Any) -> None:
        beat(what, *progress)
        if (what, point) in (("exchange", "step"), ("validation", "validation")):
            here(last_rank=True)  # before the update of a step, or in the middle of a validation

    def writing(path: Any, value: Any) -> None:
        if point == "save" and path.name == snapshots.STATE:
            here()  # the tensors are written
        write(path, value)
        if point == "manifest" and path.name == snapshots.MANIFEST:
            here()  # everything is written, but nothing is renamed yet

    def replacing(old: Any, new: Any) -> None:
        replace(old, new)
        if point == "renamed" and os.path.basename(new).startswith(("step-", "best-")):
            here()  # older ones are not deleted yet

    heartbeat.beat, snapshots.write_json = beating, writing  # type: ignore[assignment]
    files.os.replace = replacing  # type: ignore[attr-defined]


def main(point: str, count: str, *verb: str) -> None:
    arm(point, int(count))
    from alpro.cli.main import app

    app(list(verb), standalone_mode=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
