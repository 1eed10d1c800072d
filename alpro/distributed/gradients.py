"""The gradient exchange: one mean over ranks per optimizer step, sent while the backward pass still runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from alpro.distributed.collectives import buckets_of, reduces_in_place
from alpro.distributed.world import active_horovod

BUCKET_ELEMENTS = 8 * 2**20  # 32 MB: several buckets of the paper's model travel while earlier layers are differentiated


class GradientExchange:
    """Replaces every gradient by its mean over ranks.

    Call `begin` before the backward pass of a step's last micro-batch and `finish` after it. A bucket of parameters is sent
    as soon as the backward pass has the last of its gradients, so that the exchange overlaps with the differentiation of
    earlier layers. Buckets depend only on the order of `parameters`, never on timing, and so does the order of summation.

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
        self._handles: dict[int, Any] = {}  # of the buckets that are on their way
        self._running = False
        self._poison: Tensor | None = None
        for p in trained:
            p.register_post_accumulate_grad_hook(self._arrived)

    def begin(self, poison: Tensor | None = None) -> None:
        """Send each bucket from now on once the backward pass has its gradients.

        `poison` is a () tensor that is added to one gradient as it is sent: NaN makes all ranks' mean NaN, 0 changes nothing.
        """
        self._running, self._poison = active_horovod() is not None, poison
        self._missing = [len(bucket) for bucket in self._buckets]
        self._handles = {}

    def finish(self) -> None:
        """Send the buckets that lack a gradient, wait for all of them, and replace the gradients by their means."""
        if active_horovod() is None:
            return
        if not self._running:
            self.begin()
        self._running = False
        for number in range(len(self._buckets)):
            if number not in self._handles:
                self._send(number)
        for number, bucket in enumerate(self._buckets):
            self._replace(bucket, active_horovod().synchronize(self._handles.pop(number)))

    def _arrived(self, parameter: nn.Parameter) -> None:
        if self._running:
            number = self._bucket_of[parameter]
            self._missing[number] -= 1
            if not self._missing[number]:
                self._send(number)

    @torch.no_grad()
    def _send(self, number: int) -> None:
        horovod, bucket = active_horovod(), self._buckets[number]
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
            flat = (flat / horovod.size()).half()
        flat = flat if reduces_in_place(flat) else flat.cpu()
        self._handles[number] = horovod.allreduce_async_(flat, op=horovod.Sum, name=f"alpro.gradients.{number}")

    def _replace(self, bucket: list[nn.Parameter], flat: Tensor) -> None:
        present = (flat[-len(bucket) :] > 0).tolist()
        device = bucket[0].device
        flat = flat.to(device) if self._compression == "fp16" else flat.div_(active_horovod().size()).to(device)
        lengths = [p.numel() for p in bucket]
        for p, piece, has_gradient in zip(bucket, flat[: -len(bucket)].split(lengths), present, strict=True):
            p.grad = piece.view_as(p).to(p.dtype) if has_gradient else None
