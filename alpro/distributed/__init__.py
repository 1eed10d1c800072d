"""Collectives that are exact on any number of processes, through Horovod or torch.distributed.

A process belongs to a world larger than one if `alpro launch`, `horovodrun`, `torchrun` or `srun` started it
(alpro.system.place). The backend is imported and started when it is first needed. All ranks must call every collective in
the same order.

Exactness (paper section 3.1, VTC over the batch of all workers): the backward pass of `gather` returns the *sum* over
ranks of each row's gradient. N processes with batch B, averaged by `GradientExchange`, therefore give the gradient of
one process with batch N x B. Tensors are reduced one at a time, or together without fusion, so the order of summation
never depends on timing. The backends may sum in different orders, so their results differ in the last bits.
"""

from alpro.distributed.agreement import agreed
from alpro.distributed.collectives import (
    Gathered,
    PendingReduction,
    all_reduce,
    any_true,
    barrier,
    broadcast_state,
    broadcast_tensors,
    gather,
    gathered_finite,
    row_sizes,
    start_all_reduce,
)
from alpro.distributed.elastic import run_elastic
from alpro.distributed.gradients import GradientExchange
from alpro.distributed.objects import broadcast_object, gather_objects
from alpro.distributed.world import backend_name, device, init, is_elastic, local_rank, local_size, rank, shutdown, size

__all__ = [
    "Gathered",
    "GradientExchange",
    "PendingReduction",
    "agreed",
    "all_reduce",
    "any_true",
    "backend_name",
    "barrier",
    "broadcast_object",
    "broadcast_state",
    "broadcast_tensors",
    "device",
    "gather",
    "gather_objects",
    "gathered_finite",
    "init",
    "is_elastic",
    "local_rank",
    "local_size",
    "rank",
    "row_sizes",
    "run_elastic",
    "shutdown",
    "size",
    "start_all_reduce",
]
