"""Resources of this machine for a training: cores, memory, GPUs, and a measured or assumed speed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from alpro.system import gpus, memory
from alpro.training.flops import GPUS

MEASURED_S = 0.3
CPU_SHARE = 0.2  # of the measured speed of one product that fine-tunings of recipe `sample` reached on two cores
GPU_SHARE = 0.25  # of a GPU's peak, assumed: small models leave much of it idle
UNKNOWN_GPU_FLOPS = 30e12


@dataclass(frozen=True)
class Machine:
    """Cores, memory in bytes that a process may use, number of GPUs, and FLOP/s of a training on all of it."""

    cores: int
    memory: float
    gpus: int
    flops: float

    @property
    def threads(self) -> int:
        """Threads of a training: half of the cores, as threads that wait for each other are slow on a machine in use."""
        return max(self.cores // 2, 1)

    def described(self) -> str:
        """Return the machine in words."""
        if self.gpus:
            return f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"
        return f"{self.threads} of {self.cores} CPU cores"


def this_machine() -> Machine:
    """Look at this machine; on CPUs, the speed is measured for a third of a second."""
    cores, count = len(os.sched_getaffinity(0)), gpus.count()
    if count:
        import torch

        properties = torch.cuda.get_device_properties(0)
        peak = next((gpu.half for word, gpu in GPUS.items() if word in properties.name), UNKNOWN_GPU_FLOPS)
        return Machine(cores, float(properties.total_memory), count, count * peak * GPU_SHARE)
    return Machine(cores, memory.available_bytes(), 0, max(cores // 2, 1) * _measured_flops() * CPU_SHARE)


def _measured_flops() -> float:
    """Return FLOP/s of one core by the fastest of many products, so that other processes disturb it little."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a, b = torch.randn(1024, 256), torch.randn(256, 1024)
        fastest, end = float("inf"), time.perf_counter() + MEASURED_S
        while (start := time.perf_counter()) < end:
            a @ b
            fastest = min(fastest, time.perf_counter() - start)
        return 2.0 * 1024 * 256 * 1024 / fastest
    finally:
        torch.set_num_threads(before)
