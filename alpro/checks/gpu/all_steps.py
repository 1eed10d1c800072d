"""All steps of the check, in the order in which they run."""

from __future__ import annotations

from alpro.checks.gpu import costs, evaluating, feed, machine, memory, parity, paths, reproducible, worlds
from alpro.checks.gpu.made import TRAININGS
from alpro.checks.gpu.speed import compiled, speed
from alpro.checks.gpu.steps import Step

STEPS = (
    Step("machine", machine.machine, 60),
    Step("NCCL", machine.nccl, 60, needs="cuda"),
    Step("parity fp32", parity.parity_fp32, 120),
    Step("parity bf16", parity.parity_bf16, 60),
    Step("gradients", parity.gradients, 60),
    Step("pinned copies", paths.pinned_copies, 60, needs="cuda"),
    Step("half precision", paths.half_precision, 60),
    Step("GradScaler", paths.grad_scaler, 60),
    Step("checkpointing", paths.checkpointing, 60),
    Step("attention", paths.attention, 60),
    Step("optimizer", paths.optimizer, 60),
    Step("deterministic", reproducible.deterministic, 60),
    Step("kill and resume", reproducible.resume, 120),
    Step("synchronisations", costs.synchronisations, 60),
    Step("leaks", costs.leaks, 60),
    *(Step(f"speed {name}", speed(name), 60) for name in TRAININGS),
    Step("memory", memory.memory, 60),
    *(Step(f"speed {name} from the loader", speed(name, from_loader=True), 90) for name in TRAININGS),
    Step("feed", feed.feed, 90),
    Step("evaluation retrieval", evaluating.retrieval, 150),
    Step("evaluation questions", evaluating.questions, 60),
    Step("compiled", compiled, 240),
    Step("two processes torch", worlds.two_processes("torch"), 90),
    Step("two processes Horovod", worlds.two_processes("horovod"), 90),
    Step("Horovod with NCCL", worlds.horovod_with_nccl, 90, needs="cuda"),
)
