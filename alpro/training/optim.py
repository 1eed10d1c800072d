"""AdamW as the released code has it (paper section 4.2; REFERENCE "Optimisation"), on torch's fused kernel.

It differs from `torch.optim.AdamW` twice: epsilon is added to sqrt(v) *before* the bias correction, so that it weighs
1/sqrt(1 - beta2^t) times more (visible where gradients are near epsilon), and the decoupled decay acts *after* the
update: p <- (p - update) * (1 - lr * decay).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn


class AdamW(torch.optim.Optimizer):
    """One pass over the parameters for the update, one more for the decay where there is any.

    A parameter without a gradient is left alone, its moments too, and its own number of updates counts.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            for p in moved:
                state = self.state[p]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                state["step"] += 1
            for (step, device, _), alike in groupby(sorted(moved, key=self._kind), key=self._kind):
                self._update(list(alike), step, torch.device(device), group)
        return loss

    def _kind(self, p: Tensor) -> tuple[int, str, str]:
        return self.state[p]["step"], str(p.device), str(p.dtype)

    def _update(self, params: list[Tensor], step: int, device: torch.device, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        count = torch.tensor(float(step), device=device)
        torch._fused_adam_(
            params,
            [p.grad for p in params if p.grad is not None],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [count] * len(params),
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            # the kernel adds its epsilon to sqrt(v) / sqrt(1 - beta2^t)
            eps=group["eps"] / math.sqrt(1 - beta2**step),
            amsgrad=False,
            maximize=False,
        )
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
