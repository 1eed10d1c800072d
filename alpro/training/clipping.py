"""Gradients of a step: averaged over all ranks, clipped by their norm, and checked for non-finite numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alpro import distributed
from alpro.config import Training
from alpro.training.finite import HostCopy, MicroStep, NonFiniteError, describe_non_finite


class StepNumbers:
    """Norm of a step's gradient and sum of its losses. They are on their way to the host and can be read later.

    With one process and without fp16 the next step may start before they are read, so that the host never waits for a GPU.
    """

    def __init__(self, step: int, micro_steps: Sequence[MicroStep], norm: Tensor) -> None:
        self.step, self.micro_steps = step, micro_steps
        losses = torch.stack([micro.losses for micro in micro_steps]).sum()
        self._numbers = HostCopy(torch.stack([norm.to(losses), losses]))

    def read(self, scaler: torch.amp.GradScaler, names: Sequence[str], own: Sequence[Tensor] = ()) -> tuple[float, bool]:
        """Return the norm, and True if fp16 overflowed; then the step must be skipped, and the scaler lowers its scale.

        `names` are those of the losses, `own` are this rank's gradients from before the exchange, if they still exist.
        Raises NonFiniteError on all ranks.
        """
        norm, losses = self._numbers.read()
        bad_loss = not math.isfinite(losses)
        if scaler.is_enabled():
            bad_loss = distributed.any_true(bad_loss)
        if math.isfinite(norm) and not bad_loss:
            return norm, False
        if scaler.is_enabled() and not bad_loss and scaler.get_scale() > 1:
            return 0.0, True
        finite = all(bool(gradient.isfinite().all()) for gradient in own) if own else math.isfinite(norm)
        raise NonFiniteError(describe_non_finite(names, self.micro_steps, finite))


def exchange_and_clip(
    exchange: distributed.GradientExchange,
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    settings: Training,
) -> tuple[Tensor, list[Tensor]]:
    """Finish averaging the gradients over all ranks and clip their norm. Returns the norm, (), and this rank's own ones."""
    own_gradients = [p.grad for p in parameters if p.grad is not None]  # not changed: the exchange creates new tensors
    exchange.finish()
    gradients = [p.grad for p in parameters if p.grad is not None]
    if scaler.is_enabled():
        scaler.unscale_(optimizer)
    norm = torch.nn.utils.get_total_norm(gradients)
    clip(gradients, norm, settings.grad_clip)
    return norm, own_gradients


def clip(gradients: Sequence[Tensor], norm: Tensor, largest: float) -> None:
    """Scale gradients in place to a norm of at most `largest`, as torch's `clip_grads_with_norm_` does."""
    if norm.is_cpu and norm.item() + 1e-6 <= largest:  # a GPU would have to be waited for; it multiplies by 1 instead
        return
    torch._foreach_mul_(list(gradients), (largest / (norm + 1e-6)).clamp(max=1.0))
