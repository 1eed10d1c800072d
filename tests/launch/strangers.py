"""A test world whose last rank does not know the run's secret and sends a pickle that would create FILE."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from alpro import distributed
from alpro.distributed import world
from alpro.launch import heartbeat, proof, rendezvous


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def main(behaviour: str, file: str) -> None:
    """Join with another secret, or with proofs of another length, and answer the first exchange of objects with a pickle."""
    heartbeat.start()  # with the true secret: launcher and rendezvous would refuse another one
    rendezvous.start_relay(heartbeat.secret() or "")
    if world.rank() == world.size() - 1:
        heartbeat.secret = proof.new_secret  # type: ignore[assignment]
        if behaviour == "pickle":
            world.prove = lambda *parts: pickle.dumps(Trap(Path(file)))  # type: ignore[assignment]
    distributed.init()
    print("went on:", distributed.gather_objects(distributed.rank()))


if __name__ == "__main__":
    main(*sys.argv[1:])
