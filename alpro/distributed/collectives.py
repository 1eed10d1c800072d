"""Collectives over tensors and objects of all ranks."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from alpro.distributed.world import active_horovod, rank

Op = Literal["sum", "mean", "max", "min"]
AnyTensor = TypeVar("AnyTensor", bound=Tensor)

BUCKET_ELEMENTS = 32 * 2**20  # gradients are exchanged in pieces of 128 MB: the copy stays small beside the model

_gathered: Tensor | None = None  # this rank's rows in the last `gather`


# --- rows of all ranks ------------------------------------------------------------------------------------


def row_sizes(rows: int) -> list[int]:
    """How many rows each rank has, in rank order, where this one has `rows`."""
    if (horovod := active_horovod()) is None:
        return [rows]
    return horovod.allgather(torch.tensor([rows]), name="alpro.row_sizes").tolist()


def row_offset(rows: int) -> int:
    """Where this rank's `rows` begin among the rows of all ranks, as `gather` orders them.

    The place comes from the global rank: a rank's number on its host would be wrong on several hosts.
    """
    return sum(row_sizes(rows)[: rank()])


def gather(x: Tensor, sizes: list[int] | None = None) -> Tensor:
    """Rows of all ranks, in rank order: (n_r, ...) on rank r -> (sum of n_r, ...), differentiable.

    The backward sums each row's gradient over all ranks, exactly. Numbers of rows may differ between ranks; `sizes`
    (from `row_sizes`) saves an exchange where they are known.
    """
    if active_horovod() is None:
        return x
    return _Gather.apply(x, sizes if sizes is not None else row_sizes(len(x)))


def gathered_finite() -> Tensor:
    """Whether this rank's rows in the last `gather` were finite, () bool: if not, it spoilt the others' losses."""
    return torch.tensor(True) if _gathered is None else _gathered.isfinite().all()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> Tensor:
        global _gathered
        _gathered = x.detach()
        ctx.start, ctx.rows = sum(sizes[: rank()]), len(x)
        return _carried(x, lambda t: active_horovod().allgather(t, name="alpro.gather"))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = all_reduce(grads[0], "sum", name="gather.backward")
        return total[ctx.start : ctx.start + ctx.rows].contiguous(), None


# --- reductions -------------------------------------------------------------------------------------------


def all_reduce(x: Tensor, op: Op = "sum", name: str = "all_reduce") -> Tensor:
    """The element-wise sum, mean, maximum or minimum over ranks, the same bits on each; x is left as it is."""
    if (horovod := active_horovod()) is None:
        return x.clone()
    kind = {"sum": horovod.Sum, "mean": horovod.Sum, "max": horovod.Max, "min": horovod.Min}[op]
    result = _carried(x, lambda t: horovod.allreduce(t, op=kind, name=f"alpro.{name}.{op}"))
    return result / horovod.size() if op == "mean" else result


def any_true(flag: bool) -> bool:
    """True on every rank when it is true on at least one."""
    return bool(all_reduce(torch.tensor([int(flag)]), "max", name="any_true").item())


def buckets_of(tensors: Iterable[AnyTensor]) -> list[list[AnyTensor]]:
    """Tensors of one kind after each other, so many as fit."""
    buckets: list[list[AnyTensor]] = []
    room = 0
    for tensor in tensors:
        kind = (tensor.dtype, tensor.device)
        if not buckets or tensor.numel() > room or kind != (buckets[-1][0].dtype, buckets[-1][0].device):
            buckets.append([])
            room = BUCKET_ELEMENTS
        buckets[-1].append(tensor)
        room -= tensor.numel()
    return buckets


def takes_directly(x: Tensor) -> bool:
    """Whether Horovod can take the tensor where it lies: a build without NCCL knows only the CPU's memory."""
    return not x.is_cuda or bool(active_horovod().nccl_built())


def _carried(x: Tensor, collective: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a collective to a tensor that Horovod may not know: bfloat16, half sums, not contiguous, or on a GPU."""
    carried = x.detach().float() if x.dtype in (torch.bfloat16, torch.float16) else x.detach()
    carried = carried.to(torch.uint8) if carried.dtype == torch.bool else carried
    carried = (carried if takes_directly(carried) else carried.cpu()).contiguous()
    return collective(carried).to(device=x.device, dtype=x.dtype)


# --- objects and state ------------------------------------------------------------------------------------


def gather_objects(value: Any) -> list[Any]:
    """Every rank's object, in rank order, on every rank. (Pickled between this world's own processes, never to a file.)"""
    if (horovod := active_horovod()) is None:
        return [value]
    data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
    sizes = row_sizes(len(data))
    everyone = horovod.allgather(data, name="alpro.objects")
    return [pickle.loads(piece.numpy().tobytes()) for piece in everyone.split(sizes)]


def broadcast_object(value: Any, root: int = 0) -> Any:
    """The root's object, on every rank; what the others pass is ignored."""
    if (horovod := active_horovod()) is None:
        return value
    mine = rank() == root
    data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8) if mine else torch.empty(0, dtype=torch.uint8)
    length = int(horovod.broadcast(torch.tensor([len(data)]), root, name="alpro.object.length").item())
    data = data if mine else torch.empty(length, dtype=torch.uint8)
    return pickle.loads(horovod.broadcast(data, root, name="alpro.object").numpy().tobytes())


def broadcast_tensors(tensors: Iterable[Tensor], root: int = 0) -> None:
    """Overwrite tensors, which have the same shapes in the same order everywhere, with the root's: few large exchanges."""
    if (horovod := active_horovod()) is None:
        return
    with torch.no_grad():
        for bucket in buckets_of(tensors):
            whole = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            whole = _carried(whole, lambda t: horovod.broadcast(t, root, name="alpro.broadcast"))
            for tensor, piece in zip(bucket, whole.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(piece.view_as(tensor))


def broadcast_state(module: nn.Module, root: int = 0) -> None:
    """Give every rank the root's parameters and buffers, in place."""
    state = module.state_dict()
    broadcast_tensors([state[name] for name in sorted(state) if state[name].numel()], root)


def barrier() -> None:
    """Wait until every rank has come here."""
    if (horovod := active_horovod()) is not None:
        horovod.barrier()
