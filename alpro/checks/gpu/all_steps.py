"""All steps of the check, in the order in which they run."""

from __future__ import annotations

from alpro.checks.gpu import costs, machine, parity, paths, reproducible
from alpro.checks.gpu.steps import Step

STEPS = (
    Step("machine", machine.machine, 60),
    Step("NCCL", machine.nccl, 60, needs="cuda"),
    Step("parity fp32", parity.parity_fp32, 120, 120),
    Step("parity bf16", parity.parity_bf16, 60, 120),
    Step("gradients", parity.gradients, 60),
    Step("pinned copies", paths.pinned_copies, 60, needs="cuda"),
    Step("half precision", paths.half_precision, 60),
    Step("GradScaler", paths.grad_scaler, 60),
    Step("checkpointing", paths.checkpointing, 60),
    Step("attention", paths.attention, 60),
    Step("optimizer", paths.optimizer, 60),
    Step("deterministic", reproducible.deterministic, 60),
    Step("kill and resume", reproducible.resume, 120, 180),
    Step("synchronisations", costs.synchronisations, 60),
    Step("leaks", costs.leaks, 60),
)
