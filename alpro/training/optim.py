"""AdamW as in the released code (arXiv 2112.09583, section 4.2), on torch's fused kernel.

It differs from `torch.optim.AdamW` in two ways. Epsilon is added to sqrt(v) *before* the bias correction, so it weighs
1/sqrt(1 - beta2^t) times more; this is visible when gradients are near epsilon. The decoupled decay acts *after* the
update: p <- (p - update) * (1 - lr * decay).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn


class AdamW(torch.optim.Optimizer):
    """AdamW in one pass over the parameters, and a second one if there is weight decay.

    A parameter without a gradient is skipped with its moments; the bias correction counts each parameter's own updates.
    """

    # In torch these methods import the front end of torch.compile when they are first called: 2 s of processor time.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

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
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            updated = [p for p in group["params"] if p.grad is not None]
            for p in updated:
                state = self.state[p]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                state["step"] += 1
            for (step, device, _), group_params in groupby(sorted(updated, key=self._kind), key=self._kind):
                self._update(list(group_params), step, torch.device(device), group)
        return loss

    def _kind(self, p: Tensor) -> tuple[int, str, str]:
        return self.state[p]["step"], str(p.device), str(p.dtype)

    def _update(self, params: list[Tensor], step: int, device: torch.device, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        count = torch.full((), float(step), device=device)  # no copy from the host, which would wait for a GPU
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
