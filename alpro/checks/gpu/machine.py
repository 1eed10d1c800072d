"""Step: the machine, its driver, torch and NCCL, and the speed of a matrix product."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import time
from importlib import metadata

import torch

from alpro.checks.gpu.steps import Context, Failed, Figures, Skipped

OPTIONAL = ("av", "decord", "torchcodec", "horovod", "triton")
ANSWER_S = 20


def machine(context: Context) -> Figures:
    """Name the machine, and multiply two matrices on the device."""
    figures: Figures = {"python": platform.python_version(), "torch": torch.__version__, "cores": len(os.sched_getaffinity(0))}
    figures["optional packages"] = ", ".join(f"{name} {version(name)}" for name in OPTIONAL if version(name)) or "none"
    if not context.small:
        if not torch.cuda.is_available():
            raise Failed("torch finds no GPU; repair the driver, or check the CPU with --small", figures)
        cards = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        figures["GPUs"] = ", ".join(f"{card.name} {card.total_memory / 1e9:.0f} GB" for card in cards)
        figures |= {"driver": driver(), "CUDA": torch.version.cuda}
        figures["bf16"] = "supported" if torch.cuda.is_bf16_supported(including_emulation=False) else "not supported"
    side = 512 if context.small else 8192
    figures["fp32 TFLOP/s"] = round(product_rate(context.device, side, torch.float32) / 1e12, 3)
    figures["bf16 TFLOP/s"] = round(product_rate(context.device, side, torch.bfloat16) / 1e12, 3)
    return figures


def nccl(context: Context) -> Figures:
    """Add a tensor up over all GPUs of a world of one, which loads NCCL and makes its communicator."""
    if not (torch.distributed.is_available() and torch.distributed.is_nccl_available()):
        raise Skipped("this torch has no NCCL")
    file = context.work / "rendezvous"
    torch.distributed.init_process_group("nccl", init_method=f"file://{file}", rank=0, world_size=1)
    try:
        x = torch.arange(10, device=context.device, dtype=torch.float32)
        torch.distributed.all_reduce(x)
        total = float(x.sum())
    finally:
        torch.distributed.destroy_process_group()
    figures: Figures = {"NCCL": ".".join(map(str, torch.cuda.nccl.version())), "sum": total}
    if total != 45:
        raise Failed(f"the sum over one process is {total:g}, not 45", figures)
    return figures


def version(package: str) -> str:
    """Return the version of an installed or carried package; empty if it is missing."""
    if importlib.util.find_spec(package) is None:
        return ""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(version unknown)"


def driver() -> str:
    """Return the version of the NVIDIA driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(command[0]) is None:
        return "unknown: no nvidia-smi"
    answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S)
    return (answer.stdout.strip().splitlines() or ["unknown"])[0]


def product_rate(device: torch.device, side: int, dtype: torch.dtype = torch.float32, repeats: int = 3) -> float:
    """Return the FLOP/s of the product of two square matrices."""
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    out = a @ b
    wait_for(device)
    began_s = time.perf_counter()
    for _ in range(repeats):
        torch.matmul(a, b, out=out)
    wait_for(device)
    return repeats * 2 * side**3 / (time.perf_counter() - began_s)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
