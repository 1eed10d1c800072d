"""Collectives over tensors of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from alpro.distributed.backend import Backend
from alpro.distributed.world import active_backend, rank

Op = Literal["sum", "mean", "max", "min"]
AnyTensor = TypeVar("AnyTensor", bound=Tensor)

BUCKET_ELEMENTS = 32 * 2**20  # tensors are exchanged in pieces of 128 MB, so that the copy stays small compared with the model

_gathered: Tensor | None = None  # this rank's rows in the last `gather`
_gradients_to_come = 0  # gathers whose backward pass has not sent the gradient of its rows


# --- rows of all ranks ------------------------------------------------------------------------------------


def row_sizes(rows: int) -> list[int]:
    """Return how many rows each rank has, in rank order; this rank has `rows`."""
    if (backend := active_backend()) is None:
        return [rows]
    return backend.all_gather(torch.tensor([rows]), "row_sizes", rows=[1] * backend.size).tolist()


class Gathered(NamedTuple):
    """The rows of all ranks, in rank order, and the index of this rank's first row among them.

    The index is counted over the global ranks; the rank on its host would be wrong with several hosts.
    """

    rows: Tensor
    offset: int

    def for_last_loss(self) -> Tensor:
        """Return the rows for a loss that is computed at the end of the forward pass.

        The backward pass then reaches them first and sends their gradient at once. The rest of the model is differentiated
        while it travels. The rows must have no other use with a gradient.
        """
        node = self.rows.grad_fn
        return _SendEarly.apply(self.rows, node) if getattr(node, "may_send_early", False) else self.rows


def gather(x: Tensor) -> Gathered:
    """Return the rows of all ranks: (n_r, ...) on rank r -> (sum of n_r, ...), differentiable, in one exchange.

    The backward pass sums each row's gradient over all ranks, exactly. Ranks may have different numbers of rows.
    """
    global _gradients_to_come
    if (backend := active_backend()) is None:
        return Gathered(x, 0)
    _gradients_to_come += torch.is_grad_enabled() and x.requires_grad
    return Gathered(*_Gather.apply(x, backend))


def gradients_to_come() -> bool:
    """Return True if the backward pass of a `gather` has yet to send the gradient of its rows.

    If collectives are matched by their order, no other one may start before it in the backward pass: whether a bucket of
    gradients is complete by then can differ between ranks.
    """
    return _gradients_to_come > 0


def forget_gradients_to_come() -> None:
    """Expect no gradient of gathered rows any more, as the backward pass has ended."""
    global _gradients_to_come
    _gradients_to_come = 0


def gathered_finite() -> Tensor:
    """Return True, as a () bool tensor, if this rank's rows in the last `gather` were finite.

    If they were not, this rank made the losses of the others non-finite.
    """
    return torch.tensor(True) if _gathered is None else _gathered.isfinite().all()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, backend: Backend) -> tuple[Tensor, int]:
        global _gathered
        _gathered = x.detach()
        # each row carries its rank, which saves exchanging the numbers of rows first
        wide = x.detach().float() if x.dtype in (torch.bfloat16, torch.float16) else x.detach()
        marked = torch.cat([wide.flatten(1), wide.new_full((len(x), 1), rank())], 1)
        everyone = backend.all_gather(_as_supported(marked, backend), "gather").to(marked.device)
        ctx.start, ctx.count = int((everyone[:, -1] < rank()).sum()), len(x)
        ctx.may_send_early, ctx.sent = True, None
        return everyone[:, :-1].to(x.dtype).reshape(-1, *x.shape[1:]), ctx.start

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        sent, ctx.sent = ctx.sent or _send_gradient(grads[0]), None
        return sent.wait()[ctx.start : ctx.start + ctx.count].contiguous(), None


class _SendEarly(torch.autograd.Function):
    """The identity. Its backward pass starts the exchange that `_Gather`'s finishes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, node: Any) -> Tensor:
        ctx.node = node
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        ctx.node.sent = _send_gradient(grads[0])
        return grads[0], None


def _send_gradient(rows: Tensor) -> PendingReduction:
    global _gradients_to_come
    _gradients_to_come -= 1
    return start_all_reduce(rows, "sum", name="gather.backward")


# --- reductions -------------------------------------------------------------------------------------------


class PendingReduction:
    """A reduction that is on its way; `wait` returns its result."""

    def __init__(self, x: Tensor, op: Op, name: str) -> None:
        self._like, self._op, backend = x, op, active_backend()
        self._finish: Callable[[], Tensor] | None = None
        if backend is not None:
            sent = _as_supported(x, backend)
            sent = sent.clone() if sent.data_ptr() == x.data_ptr() else sent  # it is reduced in place
            self._size = backend.size
            self._finish = backend.start_reduce(sent, "sum" if op == "mean" else op, f"{name}.{op}")

    def wait(self) -> Tensor:
        """Return the result, bit-identical on all ranks. Call it once."""
        if self._finish is None:
            return self._like.clone()
        result = self._finish().to(device=self._like.device, dtype=self._like.dtype)
        return result / self._size if self._op == "mean" else result


def start_all_reduce(x: Tensor, op: Op = "sum", name: str = "all_reduce") -> PendingReduction:
    """Start what `all_reduce` does, and compute on while it travels. x must not change until `wait` returns."""
    return PendingReduction(x, op, name)


def all_reduce(x: Tensor, op: Op = "sum", name: str = "all_reduce") -> Tensor:
    """Return the element-wise sum, mean, maximum or minimum over ranks, bit-identical on all of them. x is not changed."""
    return start_all_reduce(x, op, name).wait()


def any_true(flag: bool) -> bool:
    """Return True on every rank if `flag` is true on at least one."""
    return bool(all_reduce(torch.tensor([int(flag)]), "max", name="any_true").item())


def buckets_of(tensors: Iterable[AnyTensor], elements: int) -> list[list[AnyTensor]]:
    """Split tensors, in order, into buckets of one type and device with at most `elements` elements."""
    buckets: list[list[AnyTensor]] = []
    room = 0
    for tensor in tensors:
        kind = (tensor.dtype, tensor.device)
        if not buckets or tensor.numel() > room or kind != (buckets[-1][0].dtype, buckets[-1][0].device):
            buckets.append([])
            room = elements
        buckets[-1].append(tensor)
        room -= tensor.numel()
    return buckets


def _as_supported(x: Tensor, backend: Backend) -> Tensor:
    """Return what backends can exchange: not bfloat16, float16 or bool, contiguous, and if need be on the CPU."""
    data = x.detach().float() if x.dtype in (torch.bfloat16, torch.float16) else x.detach()
    data = data.to(torch.uint8) if data.dtype == torch.bool else data
    return (data if backend.exchanges_on(data.device) else data.cpu()).contiguous()


# --- state ------------------------------------------------------------------------------------------------


def broadcast_tensors(tensors: Iterable[Tensor], root: int = 0) -> None:
    """Overwrite tensors with the root's, in few large exchanges. All ranks pass the same shapes in the same order."""
    if (backend := active_backend()) is None:
        return
    with torch.no_grad():
        for bucket in buckets_of(tensors, BUCKET_ELEMENTS):
            whole = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            whole = _as_supported(whole, backend)
            backend.broadcast(whole, root, "broadcast")
            for tensor, piece in zip(bucket, whole.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(piece.view_as(tensor))


def broadcast_state(module: nn.Module, root: int = 0) -> None:
    """Give every rank the root's parameters and buffers, in place."""
    state = module.state_dict()
    broadcast_tensors([state[name] for name in sorted(state) if state[name].numel()], root)


def barrier() -> None:
    """Wait until every rank has called this."""
    if (backend := active_backend()) is not None:
        backend.barrier()
