"""The gradient exchange: one mean over ranks per optimizer step, sent while the backward pass still runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from alpro.distributed.backend import Backend
from alpro.distributed.collectives import buckets_of, forget_gradients_to_come, gradients_to_come
from alpro.distributed.objects import broadcast_object
from alpro.distributed.world import active_backend

BUCKET_ELEMENTS = 8 * 2**20  # 32 MB: several buckets of the paper's model travel while earlier layers are differentiated


class GradientExchange:
    """Replaces every gradient by its mean over ranks.

    Call `begin` before the backward pass of a step's last micro-batch and `finish` after it. A bucket of parameters is sent
    as soon as the backward pass has the last of its gradients, so that the exchange overlaps with the differentiation of
    earlier layers. Buckets depend only on the order of `parameters`, never on timing, and so does the order of summation.

    If the backend matches collectives by their order, a bucket also waits for those before it and for the gradient of
    gathered rows, because which bucket is complete first can differ between ranks. The first exchange sends the buckets in
    the order of `parameters`, from the last; all others in the order in which rank 0's first backward pass completed them.

    A missing gradient counts as zero; if it is missing on every rank it stays None. Gradients travel in fp32 (float64 for
    float64 parameters). `compression` fp16 sends half the bytes: each rank's share of the mean, rounded to 11 bits. A value
    that overflows becomes infinite on every rank, and so stops the training.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], compression: Literal["none", "fp16"] = "none") -> None:
        trained = [p for p in parameters if p.requires_grad]
        # the backward pass has the gradients of the last parameters first
        self._buckets = list(buckets_of(reversed(trained), BUCKET_ELEMENTS))
        self._bucket_of = {p: number for number, bucket in enumerate(self._buckets) for p in bucket}
        self._compression = compression
        self._missing = [0] * len(self._buckets)  # gradients that a bucket waits for
        self._order = list(range(len(self._buckets)))  # in which buckets are sent, if that matters
        self._completed: list[int] | None = []  # in the first backward pass, in order of completion; None after it
        self._pending: dict[int, Callable[[], Tensor]] = {}  # buckets that are on their way
        self._backend: Backend | None = None  # during an exchange
        self._poison: Tensor | None = None
        for p in trained:
            p.register_post_accumulate_grad_hook(self._arrived)

    def begin(self, poison: Tensor | None = None) -> None:
        """Send each bucket from now on once the backward pass has its gradients.

        `poison` is a () tensor that is added to one gradient as it is sent: NaN makes all ranks' mean NaN, 0 changes nothing.
        """
        self._backend, self._poison = active_backend(), poison
        self._missing = [len(bucket) for bucket in self._buckets]
        self._pending = {}

    def finish(self) -> None:
        """Send the buckets that lack a gradient, wait for all of them, and replace the gradients by their means."""
        overlapped = self._backend is not None
        if not overlapped:
            self.begin()
        if (backend := self._backend) is None:
            return
        self._backend = None
        for number in self._order:
            if number not in self._pending:
                self._send(number, backend)
        for number, bucket in enumerate(self._buckets):
            self._replace(bucket, self._pending.pop(number)(), backend.size)
        forget_gradients_to_come()
        if overlapped and self._completed is not None:
            if backend.matches_by_order:
                first: list[int] = broadcast_object(self._completed)
                self._order = [*first, *(number for number in self._order if number not in first)]
            self._completed = None

    def _arrived(self, parameter: nn.Parameter) -> None:
        if (backend := self._backend) is None:
            return
        number = self._bucket_of[parameter]
        self._missing[number] -= 1
        if self._missing[number]:
            return
        if self._completed is not None:
            self._completed.append(number)
        if not backend.matches_by_order:
            self._send(number, backend)
        else:
            self._send_in_order(backend)

    def _send_in_order(self, backend: Backend) -> None:
        """Send the next buckets in `_order` that are complete."""
        for number in self._order[len(self._pending) :]:
            if self._missing[number] or gradients_to_come():
                return
            self._send(number, backend)

    @torch.no_grad()
    def _send(self, number: int, backend: Backend) -> None:
        bucket = self._buckets[number]
        dtype = torch.float64 if bucket[0].dtype == torch.float64 else torch.float32
        pieces = [p.new_zeros(p.numel(), dtype=dtype) if p.grad is None else p.grad.reshape(-1).to(dtype) for p in bucket]
        present = torch.tensor([float(p.grad is not None) for p in bucket], dtype=dtype, device=bucket[0].device)
        if (
            self._poison is not None
            and (first := next((i for i, p in enumerate(bucket) if p.grad is not None), None)) is not None
        ):
            pieces[first] = pieces[first] + self._poison.to(dtype)
        flat = torch.cat([*pieces, present])
        if self._compression == "fp16":
            flat = (flat / backend.size).half()
        flat = flat if backend.exchanges_on(flat.device) else flat.cpu()
        self._pending[number] = backend.start_reduce(flat, "sum", f"gradients.{number}")

    def _replace(self, bucket: list[nn.Parameter], flat: Tensor, size: int) -> None:
        present = (flat[-len(bucket) :] > 0).tolist()
        device = bucket[0].device
        flat = flat.to(device) if self._compression == "fp16" else flat.div_(size).to(device)
        lengths = [p.numel() for p in bucket]
        for p, piece, has_gradient in zip(bucket, flat[: -len(bucket)].split(lengths), present, strict=True):
            p.grad = piece.view_as(p).to(p.dtype) if has_gradient else None
