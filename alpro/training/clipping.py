"""Gradients of a step: averaged over all ranks, clipped by their norm, and checked for non-finite numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from alpro import distributed
from alpro.config import Training
from alpro.training.finite import MicroStep, NonFiniteError, describe_non_finite


def exchange_and_clip(
    exchange: distributed.GradientExchange,
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    settings: Training,
    micro_steps: Sequence[MicroStep],
    loss_names: Sequence[str],
) -> tuple[float, bool]:
    """Finish averaging the gradients over all ranks and clip their norm. Returns the norm, and True if fp16 overflowed.

    After an overflow the step must be skipped, and the scaler lowers its scale. Raises NonFiniteError on all ranks.
    """
    losses = torch.stack([micro.losses for micro in micro_steps])
    own_gradients = [p.grad for p in parameters if p.grad is not None]  # not changed: the exchange creates new tensors
    exchange.finish()
    gradients = [p.grad for p in parameters if p.grad is not None]
    if scaler.is_enabled():
        scaler.unscale_(optimizer)
    total_norm = torch.nn.utils.get_total_norm(gradients)
    norm = total_norm.item()
    bad_loss = not math.isfinite(losses.sum().item())
    if scaler.is_enabled():
        bad_loss = distributed.any_true(bad_loss)
    if math.isfinite(norm) and not bad_loss:
        if norm + 1e-6 > settings.grad_clip:  # else torch would multiply every gradient by 1; it adds the same 1e-6
            torch.nn.utils.clip_grads_with_norm_(parameters, settings.grad_clip, total_norm)
        return norm, False
    if scaler.is_enabled() and not bad_loss and scaler.get_scale() > 1:
        return 0.0, True
    raise NonFiniteError(describe_non_finite(loss_names, micro_steps, own_gradients))
