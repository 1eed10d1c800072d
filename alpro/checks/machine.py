"""Checks of Python, the libraries, the decoders and the machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from io import BytesIO
from pathlib import Path

from alpro.checks.findings import ANSWER_S, Finding, Status
from alpro.system import hostname, memory

CLIP_FRAMES, CLIP_SIDE = 12, 64
ROOM_GB = 6  # of disk: data, models and cache of recipe sample, with a margin
SHARED_MEMORY_MB = 512  # eight batches of recipe sample; Docker's default is 64
MEMORY_GB = 6  # what recipe sample needs at most


def check_python(root: Path) -> Finding:
    """Check the version of Python."""
    version, where = platform.python_version(), sys.prefix
    if not (3, 11) <= sys.version_info < (3, 14):
        return Finding("Python", "fail", f"{version} in {where}", "make PYTHON=/path/to/python3.11 setup (or 3.12, 3.13)")
    if sys.version_info >= (3, 12):
        return Finding("Python", "warn", f"{version} in {where}", "tested with 3.11; the packages resolve for this one too")
    return Finding("Python", "ok", f"{version} in {where}")


def check_torch(root: Path) -> Finding:
    """Check that torch finds the GPUs that the driver has."""
    import torch

    from alpro.config import Launch
    from alpro.system import gpus

    cores = len(os.sched_getaffinity(0))
    world = f"launch.processes=null starts {Launch(processes=None).world_size}"
    if torch.cuda.device_count() != gpus.count():
        detail = f"{torch.__version__} finds {torch.cuda.device_count()} GPUs, the driver {gpus.count()}; {cores} cores"
        return Finding("torch", "warn", detail, "set launch.processes to what torch finds, or repair the driver")
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        listed = ", ".join(f"{card.name} ({card.total_memory / 2**30:.0f} GB)" for card in cards)
        return Finding("torch", "ok", f"{torch.__version__}, {len(cards)} GPU: {listed}; {cores} cores; {world}")
    if torch.version.cuda:
        remedy = "fine without a GPU; with one, run nvidia-smi: the driver is missing or too old"
        return Finding("torch", "warn", f"{torch.__version__}, a CUDA build that finds no GPU; {cores} cores; {world}", remedy)
    return Finding("torch", "ok", f"{torch.__version__}, on {cores} CPU cores; {world}")


def check_model_libraries(root: Path) -> Finding:
    """Check that timm, transformers and torchvision can be imported."""
    from alpro.models import torchvision_shim

    torchvision = torchvision_shim.torchvision
    import timm
    import transformers
    from transformers.models.bert import modeling_bert  # noqa: F401  (fails if torchvision does)

    shim = " (a CUDA build with a CPU build of torch: made importable)" if hasattr(torchvision_shim, "OPERATORS") else ""
    detail = f"timm {timm.__version__}, transformers {transformers.__version__}, torchvision {torchvision.__version__}{shim}"
    return Finding("model libraries", "ok", detail)


def check_horovod(root: Path) -> Finding:
    """Check that Horovod loads with this torch, and with which backends it was built."""
    import torch

    if importlib.util.find_spec("horovod") is None:
        remedy = "set launch.backend=torch for several processes, or install it: `make horovod`"
        return Finding("Horovod", "warn", "not installed", remedy)
    import horovod.torch as hvd

    if not hasattr(hvd, "gloo_built"):
        return Finding("Horovod", "fail", "it does not load with this torch", "`make horovod` builds it for this torch")
    built = {"Gloo": hvd.gloo_built(), "NCCL": hvd.nccl_built(), "MPI": hvd.mpi_built()}
    detail = f"{metadata.version('horovod')} with {', '.join(name for name in built if built[name])}"
    beside = Path(sys.executable).with_name("horovodrun")
    if not beside.exists() and shutil.which("horovodrun") is None:
        return Finding("Horovod", "fail", f"{detail}, without horovodrun", "`make horovod`")
    if torch.cuda.device_count() > 1 and not hvd.nccl_built():
        remedy = "several GPUs exchange gradients through the CPU; set launch.backend=torch, or `make horovod-gpu`"
        return Finding("Horovod", "warn", detail, remedy)
    return Finding("Horovod", "ok", detail)


def check_torch_distributed(root: Path) -> Finding:
    """Check which libraries torch.distributed has, for `launch.backend=torch`."""
    import torch
    import torch.distributed as dist

    name = "torch.distributed"
    if not dist.is_available() or not dist.is_gloo_available():
        return Finding(name, "fail", "this torch has no Gloo", "several processes need launch.backend=horovod")
    if torch.cuda.device_count() > 1 and not dist.is_nccl_available():
        return Finding(name, "warn", "Gloo, no NCCL", "several GPUs exchange gradients through the CPU with this torch")
    return Finding(name, "ok", "Gloo, NCCL" if dist.is_nccl_available() else "Gloo")


def check_decoders(root: Path) -> Finding:
    """Encode a clip with PyAV, read it with both decoders and compare the pixels."""
    import av
    import numpy as np

    clip = _make_clip()
    with av.open(BytesIO(clip), "r") as container:
        ours = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    detail = f"PyAV {av.__version__}"
    if len(ours) != CLIP_FRAMES:
        return Finding("decoders", "fail", f"{detail} reads {len(ours)} of {CLIP_FRAMES} frames", "`make clean setup`")
    if importlib.util.find_spec("decord") is None:
        return Finding("decoders", "warn", f"{detail}; no decord", "videos are read by PyAV only; `make setup` installs decord")
    import decord

    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(clip)
        file.flush()
        theirs = decord.VideoReader(file.name, num_threads=1).get_batch(range(CLIP_FRAMES)).asnumpy()
    detail = f"decord {decord.__version__}, {detail}, H.264"
    difference = int(np.abs(theirs.astype(int) - ours).max())
    if difference > 2:
        remedy = "results may differ slightly between files read by decord and files read by PyAV"
        return Finding("decoders", "warn", f"{detail}: pixels differ by up to {difference}", remedy)
    return Finding("decoders", "ok", f"{detail}: both decoders give the same pixels")


def _make_clip() -> bytes:
    """Return a short H.264 .mp4 file as bytes."""
    import av
    import numpy as np

    out = BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=CLIP_FRAMES)
        stream.width = stream.height = CLIP_SIDE
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        for n in range(CLIP_FRAMES):
            image = np.full((CLIP_SIDE, CLIP_SIDE, 3), 40, np.uint8)
            image[8 + n : 24 + n, 4 * n : 4 * n + 16] = (220, 60, 90)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def check_compiler(root: Path) -> Finding:
    """Check for what building Horovod needs: a C++ compiler and Python's headers."""
    compiler = os.environ.get("CXX") or next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if compiler is None or not headers.exists():
        missing = "C++ compiler" if compiler is None else "Python.h"
        return Finding("compiler", "warn", f"no {missing}", "needed only to build Horovod: g++ and python3-dev")
    command = [*compiler.split(), "--version"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=True).stdout
    return Finding("compiler", "ok", next(iter(output.splitlines()), compiler))


def check_disk(root: Path) -> Finding:
    """Check the free space and the permission to write."""
    if not os.access(root, os.W_OK):
        remedy = "change the permissions of this folder, or set ALPRO_STATE and name outputs in other folders"
        return Finding("disk", "fail", f"no permission to write to {root.resolve()}", remedy)
    free = shutil.disk_usage(root).free / 1e9
    status: Status = "fail" if free < 1 else "warn" if free < ROOM_GB else "ok"
    remedy = f"recipe sample needs about {ROOM_GB} GB; `dvc gc -w` removes old results"
    return Finding("disk", status, f"{free:.1f} GB free in {root.resolve()}", remedy)


def check_memory(root: Path) -> Finding:
    """Check the available memory, within the limit of a container."""
    available, total = memory.available_bytes() / 2**30, memory.total_bytes() / 2**30
    detail = f"{available:.0f} of {total:.0f} GB available"
    if available < MEMORY_GB:
        return Finding("memory", "warn", detail, f"recipe sample needs {MEMORY_GB} GB; half of that with launch.processes=1")
    return Finding("memory", "ok", detail)


def check_shared_memory(root: Path) -> Finding:
    """Check the room in /dev/shm, which loader workers need."""
    from alpro.data.batches import shared_memory

    free = shared_memory.free_bytes()
    if free is None:
        return Finding("shared memory", "ok", f"no {shared_memory.FOLDER} on this system")
    detail = f"{free / 1e6:,.0f} MB free in {shared_memory.FOLDER}"
    return Finding("shared memory", "warn" if free < SHARED_MEMORY_MB * 1e6 else "ok", detail, shared_memory.REMEDY)


def check_host_name(root: Path) -> Finding:
    """Check that this host's own name resolves, which worlds of several processes need."""
    fault = hostname.fault()
    if fault:
        problem, _, remedy = fault.partition("; ")
        return Finding("host name", "fail", problem, f"{remedy}; runs of one process do not need it")
    return Finding("host name", "ok", f"{socket.gethostname()} resolves")
