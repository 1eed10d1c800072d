"""Backend `horovod`: the collectives of Horovod, over Gloo or NCCL, and the only one with elastic worlds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from alpro.distributed.backend import Backend, LostRankError, Reduction
from alpro.errors import LaunchError
from alpro.launch import heartbeat, rendezvous
from alpro.system import hostname

CPU_CYCLE_MS = "50"


class HorovodBackend(Backend):
    """Ranks that `horovodrun` or `alpro launch` has started. Tensors are reduced without fusion, so in one order."""

    name = "horovod"
    matches_by_order = False

    def __init__(self) -> None:
        """Import Horovod. Raises LaunchError if it cannot be imported, or if this host's own name does not resolve."""
        # Fusion depends on the timing of the ranks and would change the order of summation. Set before Horovod starts.
        os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
        if os.environ.get("HOROVOD_ELASTIC") == "1":
            # Horovod 0.28.1 crashes when it starts again, after a change of the world, if both of its tuned values are set
            os.environ.pop("HOROVOD_CYCLE_TIME", None)
        elif not torch.cuda.is_available():
            # Horovod's thread wakes this often, and its processes then agree on what is ready, on cores that also compute.
            # `make setup` builds a Horovod whose thread also wakes for each exchange, so the cycle need not be short.
            os.environ.setdefault("HOROVOD_CYCLE_TIME", CPU_CYCLE_MS)
        try:
            import horovod.torch as horovod
        except ImportError as error:
            raise LaunchError(
                f"a world of {os.environ['HOROVOD_SIZE']} processes needs Horovod, which cannot be imported here ({error}); "
                "`make setup` builds it, or set launch.backend=torch, or launch.processes=1"
            ) from None
        several_hosts = int(os.environ.get("HOROVOD_CROSS_SIZE") or 1) > 1
        if fault := hostname.fault(other_hosts=several_hosts and rendezvous.is_remote()):
            raise LaunchError(fault)
        if (secret := heartbeat.secret()) is not None:
            rendezvous.start_relay(secret)
        self._horovod: Any = horovod

    def connect(self) -> None:
        """Connect to the other ranks."""
        with _lost_rank_reported():
            self._horovod.init()
        self.rank, self.size = self._horovod.rank(), self._horovod.size()
        self.local_rank, self.local_size = self._horovod.local_rank(), self._horovod.local_size()

    def leave(self) -> None:
        """Disconnect from the other ranks."""
        self._horovod.shutdown()

    def exchanges_on(self, device: torch.device) -> bool:
        """Return True for the CPU, and for GPUs if Horovod was built with NCCL."""
        return device.type == "cpu" or bool(self._horovod.nccl_built())

    def all_gather(self, x: Tensor, name: str, rows: Sequence[int] | None = None) -> Tensor:
        """Return the rows of all ranks."""
        with _lost_rank_reported():
            return self._horovod.allgather(x, name=f"alpro.{name}")

    def start_reduce(self, x: Tensor, operation: Reduction, name: str) -> Callable[[], Tensor]:
        """Start to reduce a tensor over all ranks, in place."""
        horovod = self._horovod
        operations = {"sum": horovod.Sum, "max": horovod.Max, "min": horovod.Min}
        with _lost_rank_reported():
            handle = horovod.allreduce_async_(x, op=operations[operation], name=f"alpro.{name}")

        def wait() -> Tensor:
            with _lost_rank_reported():
                return horovod.synchronize(handle)

        return wait

    def broadcast(self, x: Tensor, root: int, name: str) -> None:
        """Overwrite a tensor with the root's."""
        with _lost_rank_reported():
            self._horovod.broadcast_(x, root, name=f"alpro.{name}")

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        with _lost_rank_reported():
            self._horovod.barrier()


@contextmanager
def _lost_rank_reported() -> Iterator[None]:
    """Raise LostRankError in place of Horovod's own exception, which stands for any failed exchange."""
    from horovod.common.exceptions import HorovodInternalError

    try:
        yield
    except HorovodInternalError as error:
        raise LostRankError(f"an exchange with the other ranks failed: {' '.join(str(error).split())}") from error
