"""A test rank that writes the variables it got to FOLDER, and waits until FOLDER/end exists."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from alpro import distributed
from alpro.launch import heartbeat


def main(folder: str) -> None:
    distributed.init()
    path = Path(folder) / f"{distributed.rank()}.json"
    path.with_suffix(".part").write_text(json.dumps(dict(os.environ)))
    path.with_suffix(".part").rename(path)
    while not distributed.any_true((Path(folder) / "end").exists()):
        heartbeat.beat("waiting")
        time.sleep(0.05)
    distributed.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
