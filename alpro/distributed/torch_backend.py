"""Backend `torch`: the collectives of torch.distributed, over Gloo on CPUs and NCCL on GPUs; both are part of torch.

All collectives use one process group, so they must start in the same order on all ranks (`matches_by_order`). Several
groups would not lift that rule on GPUs: NCCL's kernels of two groups that start in another order on another rank can wait
for each other for ever. Tensors on the CPU travel over Gloo also if there are GPUs, so numbers that the program needs on
the CPU never wait for a GPU.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from alpro.distributed.backend import Backend, LostRankError, Reduction
from alpro.errors import LaunchError
from alpro.launch import heartbeat
from alpro.system import place, sockets

INTERFACES = "GLOO_SOCKET_IFNAME"
OPERATIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
UNSUPERVISED = timedelta(minutes=30)  # after which an exchange fails; as in torch
SUPERVISED = timedelta(days=20)  # the launcher ends a run that stalls (launch.stall_timeout_s); 2**31 ms are 24 days


def check_interfaces(names: str) -> None:
    """Raise LaunchError if Gloo cannot use one of the network interfaces `name,...` that it is told to use."""
    for name in filter(None, names.split(",")):
        try:
            dist.ProcessGroupGloo.create_device(interface=name)
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), "")
            raise LaunchError(f"{INTERFACES}: Gloo cannot use the network interface {name!r} of this host ({reason})") from None


class TorchBackend(Backend):
    """Ranks that `torchrun`, `srun` or `alpro launch` has started."""

    name = "torch"
    matches_by_order = True

    def __init__(self, own: place.Place) -> None:
        self.rank, self.size, self.local_rank, self.local_size = own.rank, own.size, own.local_rank, own.local_size
        self._starter = own.starter

    def connect(self) -> None:
        """Connect to the other ranks."""
        timeout = UNSUPERVISED if heartbeat.secret() is None else SUPERVISED
        store: dist.Store | None = None
        method: str | None = "env://"
        if address := os.environ.get(place.STORE):
            store, method = _open_store(address, self.size, timeout), None
        elif self._starter == "srun":
            host, port = place.slurm_meeting_point(os.environ)
            method = f"tcp://{host}:{port}"
        check_interfaces(os.environ.get(INTERFACES, ""))
        kinds = "cpu:gloo,cuda:nccl" if self.exchanges_on(torch.device("cuda")) else "gloo"
        hook = sys.excepthook
        with _lost_rank_reported("connecting to"):
            connections = sockets.opened_by(
                lambda: dist.init_process_group(kinds, method, timeout, self.size, self.rank, store)
            )
        if heartbeat.secret() is not None:
            sys.excepthook = hook  # torch's puts the rank before each line, as the launcher does
        # a rank that ends with an error during an exchange would else wait for the others, which wait for it
        atexit.register(sockets.close_connections, connections)

    def leave(self) -> None:
        """Disconnect from the other ranks."""
        dist.destroy_process_group()

    def exchanges_on(self, device: torch.device) -> bool:
        """Return True for the CPU, and for GPUs if torch has NCCL."""
        return device.type == "cpu" or (torch.cuda.is_available() and dist.is_nccl_available())

    def all_gather(self, x: Tensor, name: str, rows: Sequence[int] | None = None) -> Tensor:
        """Return the rows of all ranks. They travel in blocks of equal size, padded where a rank has fewer rows."""
        counts = self._counts(len(x)) if rows is None else list(rows)
        longest = max(counts)
        block = x if len(x) == longest else torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])])
        blocks = x.new_empty(self.size, longest, *x.shape[1:])
        if blocks.numel():
            with _lost_rank_reported():
                dist.all_gather(list(blocks), block)
        if min(counts) == longest:
            return blocks.flatten(0, 1)
        return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])

    def _counts(self, rows: int) -> list[int]:
        counts = torch.empty(self.size, 1, dtype=torch.int64)
        with _lost_rank_reported():
            dist.all_gather(list(counts), torch.tensor([rows]))
        return counts.flatten().tolist()

    def start_reduce(self, x: Tensor, operation: Reduction, name: str) -> Callable[[], Tensor]:
        """Start to reduce a tensor over all ranks, in place."""
        with _lost_rank_reported():
            work = dist.all_reduce(x, OPERATIONS[operation], async_op=True)
        assert work is not None

        def wait() -> Tensor:
            with _lost_rank_reported():
                work.wait()
            return x

        return wait

    def broadcast(self, x: Tensor, root: int, name: str) -> None:
        """Overwrite a tensor with the root's."""
        if x.numel():
            with _lost_rank_reported():
                dist.broadcast(x, root)

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        self.start_reduce(torch.zeros(1), "sum", "barrier")()


def _open_store(address: str, size: int, timeout: timedelta) -> dist.Store:
    """Return the store that the launcher offers: a file on one machine, a server for several."""
    if not address.startswith(place.TCP):
        return dist.FileStore(address, size)
    host, _, port = address.removeprefix(place.TCP).rpartition(":")
    return dist.TCPStore(host, int(port), size, is_master=False, timeout=timeout)


@contextmanager
def _lost_rank_reported(action: str = "an exchange with") -> Iterator[None]:
    """Raise LostRankError in place of torch's exception for a failed exchange, which is a plain RuntimeError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        sentence = re.sub(r"^\[\S+\] ", "", str(error)).partition("\n")[0].partition(". ")[0]
        raise LostRankError(f"{action} the other ranks failed: {sentence}") from error
