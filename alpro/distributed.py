"""The one module that imports Horovod: collectives that are exact on any number of processes, and a world of one without it.

A process belongs to a larger world when `horovodrun` started it (it says so in `HOROVOD_RANK` and `HOROVOD_SIZE`);
Horovod is imported and started at the first need. Every collective must be called by all ranks in the same order.

Exactness (paper section 3.1, VTC over the batch of all workers): the backward of `gather` is the *sum* over ranks of each
row's gradient, so that N processes of batch B, averaged by `exchange_gradients`, give the gradient of one with batch N x B.
Order of summation: one tensor is reduced at a time, or several without fusion, so it never depends on timing.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from alpro import sockets, watch
from alpro.errors import LaunchError

Op = Literal["sum", "mean", "max", "min"]
AnyTensor = TypeVar("AnyTensor", bound=Tensor)
Result = TypeVar("Result")

BUCKET_ELEMENTS = 32 * 2**20  # gradients are exchanged in pieces of 128 MB: the copy stays small beside the model

_horovod: Any = None  # horovod.torch once started
_connections: dict[str, int] = {}  # to the other processes
_gathered: Tensor | None = None  # this rank's rows in the last `gather`


# --- the world --------------------------------------------------------------------------------------------


def init() -> None:
    """Join the world that this process was started in; a second call does nothing.

    Raises LaunchError when the world is larger than one and Horovod is not installed.
    """
    global _horovod
    if _horovod is not None or not _launched():
        return
    watch.start()
    # Fusion follows the timing of the ranks and would change the order of summation; must be set before Horovod starts.
    os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
    try:
        import horovod.torch as horovod
    except ImportError as error:
        raise LaunchError(
            f"a world of {os.environ['HOROVOD_SIZE']} processes needs Horovod, which can't be imported here ({error}); "
            "`make setup` builds it, or set launch.processes=1"
        ) from None
    _horovod = horovod
    _meet()
    watch.joined()


def _meet() -> None:
    """Connect with the other processes."""
    global _connections
    before = sockets.connections()
    _horovod.init()
    _connections = {name: number for name, number in sockets.connections().items() if name not in before}


def shutdown() -> None:
    """Leave the world; afterwards this process is a world of one for itself."""
    global _horovod
    if _horovod is not None:
        _horovod.shutdown()
        _horovod = None
        for name in ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE", "HOROVOD_ELASTIC"):
            os.environ.pop(name, None)


def rank() -> int:
    """This process's number in the world, over all hosts."""
    return _horovod.rank() if _horovod is not None else _environment("HOROVOD_RANK", 0)


def size() -> int:
    """How many processes the world has."""
    return _horovod.size() if _horovod is not None else _environment("HOROVOD_SIZE", 1)


def local_rank() -> int:
    """This process's number on its host: chooses the GPU, and nothing else."""
    return _horovod.local_rank() if _horovod is not None else _environment("HOROVOD_LOCAL_RANK", 0)


def local_size() -> int:
    """How many processes of the world run on this host."""
    return _horovod.local_size() if _horovod is not None else _environment("HOROVOD_LOCAL_SIZE", 1)


def device() -> torch.device:
    """This process's GPU, or the CPU. Raises LaunchError where more processes run on this host than it has GPUs."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_size() > (number := torch.cuda.device_count()):
        raise LaunchError(
            f"{local_size()} processes on {socket.gethostname()}, which has GPUs for {number}: each process takes one; "
            "start fewer, or set launch.processes=null for one on each GPU of a machine"
        )
    return torch.device("cuda", local_rank())


def elastic() -> bool:
    """Whether processes of this world may be lost and added (`horovodrun --min-np`)."""
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def run_elastic(attempt: Callable[[Callable[[], None]], Result], say: Callable[[str], None]) -> Result:
    """Call `attempt(check)` until it returns: again, in the changed world, when a process was lost or hosts came or went.

    `attempt` must find its way from whatever the processes hold; no collective may be called outside of it, as a process that
    joins would not take part. It calls `check` on all ranks where it can be begun anew without loss: that is where processes
    that wait are let in.
    """
    from horovod.common.elastic import State, run_fn

    class Watched(State):
        def save(self) -> None:
            pass

        def sync(self) -> None:
            pass

        def restore(self) -> None:
            # Horovod keeps its connections until all have met anew, and a process that waits for this one and not for the
            # lost one would notice nothing before Gloo's time is over
            sockets.hang_up(_connections)
            say("elastic: another process was lost; going on from the last commit")

        def reset(self) -> None:
            say(f"elastic: {size()} processes from here on, this one is rank {rank()}")

    def meet_anew() -> None:
        _horovod.shutdown()
        _meet()

    init()
    state = Watched(bcast_object=broadcast_object, get_rank=rank)
    return run_fn(lambda _: attempt(state.check_host_updates), meet_anew)(state)


def _launched() -> bool:
    return _environment("HOROVOD_SIZE", 1) > 1 or elastic()


def _environment(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else default


def _world() -> Any:
    """Horovod, started when needed; None in a world of one."""
    if _horovod is None and _launched():
        init()
    return _horovod if _horovod is not None and _horovod.size() > 1 else None


# --- rows of all ranks ------------------------------------------------------------------------------------


def row_sizes(rows: int) -> list[int]:
    """How many rows each rank has, in rank order, where this one has `rows`."""
    if (horovod := _world()) is None:
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
    if _world() is None:
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
        return _carried(x, lambda t: _horovod.allgather(t, name="alpro.gather"))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = all_reduce(grads[0], "sum", name="gather.backward")
        return total[ctx.start : ctx.start + ctx.rows].contiguous(), None


# --- reductions -------------------------------------------------------------------------------------------


def all_reduce(x: Tensor, op: Op = "sum", name: str = "all_reduce") -> Tensor:
    """The element-wise sum, mean, maximum or minimum over ranks, the same bits on each; x is left as it is."""
    if (horovod := _world()) is None:
        return x.clone()
    kind = {"sum": horovod.Sum, "mean": horovod.Sum, "max": horovod.Max, "min": horovod.Min}[op]
    result = _carried(x, lambda t: horovod.allreduce(t, op=kind, name=f"alpro.{name}.{op}"))
    return result / horovod.size() if op == "mean" else result


def any_true(flag: bool) -> bool:
    """True on every rank when it is true on at least one."""
    return bool(all_reduce(torch.tensor([int(flag)]), "max", name="any_true").item())


def exchange_gradients(parameters: Iterable[nn.Parameter], compression: Literal["none", "fp16"] = "none") -> None:
    """Replace every gradient by its mean over ranks: the one gradient exchange of an optimizer step.

    A parameter without a gradient on some ranks counts as zero there; without one on every rank it keeps none. Exchanged in
    fp32 (float64 where the parameter is), in pieces of `BUCKET_ELEMENTS` cut by the order of `parameters` alone.
    `compression` fp16 sends half the bytes: each rank's share of the mean, rounded to 11 bits; what overflows becomes
    infinite on every rank, and so stops the training.
    """
    if (horovod := _world()) is None:
        return
    handles = []
    for number, bucket in enumerate(_buckets(p for p in parameters if p.requires_grad)):
        kind = torch.float64 if bucket[0].dtype == torch.float64 else torch.float32
        pieces = [p.new_zeros(p.numel(), dtype=kind) if p.grad is None else p.grad.reshape(-1).to(kind) for p in bucket]
        present = torch.tensor([float(p.grad is not None) for p in bucket], dtype=kind, device=bucket[0].device)
        flat = torch.cat([*pieces, present])
        if compression == "fp16":
            flat = (flat / horovod.size()).half()
        flat = flat if _direct(flat) else flat.cpu()
        handles.append((bucket, horovod.allreduce_async_(flat, op=horovod.Sum, name=f"alpro.gradients.{number}")))
    for bucket, handle in handles:
        flat = horovod.synchronize(handle)
        present = (flat[-len(bucket) :] > 0).tolist()
        flat = flat.to(bucket[0].device) if compression == "fp16" else flat.div_(horovod.size()).to(bucket[0].device)
        lengths = [p.numel() for p in bucket]
        for p, piece, there in zip(bucket, flat[: -len(bucket)].split(lengths), present, strict=True):
            p.grad = piece.view_as(p).to(p.dtype) if there else None


def _buckets(tensors: Iterable[AnyTensor]) -> list[list[AnyTensor]]:
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


def _direct(x: Tensor) -> bool:
    """Whether Horovod can take the tensor where it lies: a build without NCCL knows only the CPU's memory."""
    return not x.is_cuda or bool(_horovod.nccl_built())


def _carried(x: Tensor, collective: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a collective to a tensor that Horovod may not know: bfloat16, half sums, not contiguous, or on a GPU."""
    carried = x.detach().float() if x.dtype in (torch.bfloat16, torch.float16) else x.detach()
    carried = carried.to(torch.uint8) if carried.dtype == torch.bool else carried
    carried = (carried if _direct(carried) else carried.cpu()).contiguous()
    return collective(carried).to(device=x.device, dtype=x.dtype)


# --- objects and state ------------------------------------------------------------------------------------


def gather_objects(value: Any) -> list[Any]:
    """Every rank's object, in rank order, on every rank. (Pickled between this world's own processes, never to a file.)"""
    if (horovod := _world()) is None:
        return [value]
    data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
    sizes = row_sizes(len(data))
    everyone = horovod.allgather(data, name="alpro.objects")
    return [pickle.loads(piece.numpy().tobytes()) for piece in everyone.split(sizes)]


def broadcast_object(value: Any, root: int = 0) -> Any:
    """The root's object, on every rank; what the others pass is ignored."""
    if (horovod := _world()) is None:
        return value
    mine = rank() == root
    data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8) if mine else torch.empty(0, dtype=torch.uint8)
    length = int(horovod.broadcast(torch.tensor([len(data)]), root, name="alpro.object.length").item())
    data = data if mine else torch.empty(length, dtype=torch.uint8)
    return pickle.loads(horovod.broadcast(data, root, name="alpro.object").numpy().tobytes())


def broadcast_tensors(tensors: Iterable[Tensor], root: int = 0) -> None:
    """Overwrite tensors, which have the same shapes in the same order everywhere, with the root's: few large exchanges."""
    if (horovod := _world()) is None:
        return
    with torch.no_grad():
        for bucket in _buckets(tensors):
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
    if (horovod := _world()) is not None:
        horovod.barrier()
