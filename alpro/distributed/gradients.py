"""The gradient exchange: one mean over ranks per optimizer step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from alpro.distributed.collectives import buckets_of, reduces_in_place
from alpro.distributed.world import active_horovod


def exchange_gradients(parameters: Iterable[nn.Parameter], compression: Literal["none", "fp16"] = "none") -> None:
    """Replace every gradient by its mean over ranks.

    A missing gradient counts as zero; if it is missing on every rank it stays None. Gradients travel in fp32 (float64 for
    float64 parameters), in buckets of `BUCKET_ELEMENTS` that depend only on the order of `parameters`. `compression` fp16
    sends half the bytes: each rank's share of the mean, rounded to 11 bits. A value that overflows becomes infinite on
    every rank, and so stops the training.
    """
    if (horovod := active_horovod()) is None:
        return
    handles = []
    for number, bucket in enumerate(buckets_of(p for p in parameters if p.requires_grad)):
        dtype = torch.float64 if bucket[0].dtype == torch.float64 else torch.float32
        pieces = [p.new_zeros(p.numel(), dtype=dtype) if p.grad is None else p.grad.reshape(-1).to(dtype) for p in bucket]
        present = torch.tensor([float(p.grad is not None) for p in bucket], dtype=dtype, device=bucket[0].device)
        flat = torch.cat([*pieces, present])
        if compression == "fp16":
            flat = (flat / horovod.size()).half()
        flat = flat if reduces_in_place(flat) else flat.cpu()
        handles.append((bucket, horovod.allreduce_async_(flat, op=horovod.Sum, name=f"alpro.gradients.{number}")))
    for bucket, handle in handles:
        flat = horovod.synchronize(handle)
        present = (flat[-len(bucket) :] > 0).tolist()
        flat = flat.to(bucket[0].device) if compression == "fp16" else flat.div_(horovod.size()).to(bucket[0].device)
        lengths = [p.numel() for p in bucket]
        for p, piece, has_gradient in zip(bucket, flat[: -len(bucket)].split(lengths), present, strict=True):
            p.grad = piece.view_as(p).to(p.dtype) if has_gradient else None
