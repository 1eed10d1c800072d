"""Gradients of a step: averaged over all ranks, clipped by their norm, and checked for non-finite numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from alpro import distributed
from alpro.config import Training
from alpro.errors import TrainingError
from alpro.training.finite import HostCopy, MicroStep, NonFiniteError, describe_non_finite


class StepNumbers:
    """Norm of a step's gradient and sum of its losses, on their way to the host."""

    def __init__(self, step: int, micro_steps: Sequence[MicroStep], norm: Tensor) -> None:
        self.step, self.micro_steps = step, micro_steps
        losses = torch.stack([micro.losses for micro in micro_steps]).sum()
        self._numbers = HostCopy(torch.stack([norm.to(losses), losses]))

    def read(self, scaler: torch.amp.GradScaler | None, names: Sequence[str], own: Sequence[Tensor] = ()) -> bool:
        """Return False if fp16 overflowed; then the step must be skipped, and the scaler lowers its scale.

        `scaler` is None without fp16; `names` are those of the losses, `own` this rank's gradients from before the exchange, if
        they still exist. Raises NonFiniteError on all ranks.
        """
        norm, losses = self._numbers.read()
        bad_loss = not math.isfinite(losses)
        if scaler is not None:
            bad_loss = distributed.any_true(bad_loss)
        if math.isfinite(norm) and not bad_loss:
            return True
        if scaler is not None and not bad_loss and scaler.get_scale() > 1:
            return False
        finite = all(bool(gradient.isfinite().all()) for gradient in own) if own else math.isfinite(norm)
        raise NonFiniteError(describe_non_finite(names, self.micro_steps, finite))


class StepCheck:
    """Reads the numbers of each step: in fp16 and with several processes at once, else while the next step is computed.

    Then the host never waits for a GPU. All methods raise TrainingError on all ranks for numbers that are not finite.
    """

    def __init__(self, names: Sequence[str], last_snapshot: Callable[[], str]) -> None:
        """`names` are those of the losses; `last_snapshot` says how to resume."""
        self._names, self._last_snapshot = names, last_snapshot
        self._unread: list[StepNumbers] = []  # of this step and of the one before

    def allows(self, numbers: StepNumbers, scaler: torch.amp.GradScaler, own: Sequence[Tensor], late: bool) -> bool:
        """Return False if the step must be skipped because fp16 overflowed. `late`: its numbers may be read later."""
        if late and not scaler.is_enabled():
            self._unread.append(numbers)
            return True
        return self._read(numbers, scaler if scaler.is_enabled() else None, own)

    def next_step(self) -> None:
        """Read the numbers of the step before the last one, which have arrived while the last one was queued."""
        while len(self._unread) > 1:
            self._read(self._unread.pop(0))

    def settle(self) -> None:
        """Read all numbers that were not read yet."""
        while self._unread:
            self._read(self._unread.pop(0))

    def _read(self, numbers: StepNumbers, scaler: torch.amp.GradScaler | None = None, own: Sequence[Tensor] = ()) -> bool:
        try:
            return numbers.read(scaler, self._names, own)
        except NonFiniteError as error:
            raise TrainingError(f"step {numbers.step}: {error}; {self._last_snapshot()}") from None


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
