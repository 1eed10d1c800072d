"""`alpro doctor`: what works on this machine, and what to do about the rest; a few seconds, nothing is downloaded."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Literal
from urllib.parse import quote

Status = Literal["ok", "warn", "fail"]
CLIP_FRAMES, CLIP_SIDE = 12, 64
ROOM_GB = 6  # what the sample recipe's data, models and cache need, with some to spare
MEMORY_GB = 6
ANSWER_S = 60


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `remedy` says what to do unless it is well."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def diagnose(root: str | Path = ".") -> list[Check]:
    """Look at everything that the pipeline in this folder stands on, one thing after the other."""
    return [_guarded(name, look, Path(root)) for name, look in CHECKS.items()]


def show(checks: list[Check]) -> str:
    """One line a check, a line with the remedy under what is not well, and a summary."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:4}  {check.name:{width}}  {check.detail}")
        if check.status != "ok" and check.remedy:
            lines.append(f"{'':4}  {'':{width}}  -> {check.remedy}")
    failed = [check.name for check in checks if check.status == "fail"]
    warned = [check.name for check in checks if check.status == "warn"]
    verdict = f"does not work: {', '.join(failed)}" if failed else "everything needed works"
    return "\n".join([*lines, f"{verdict}; look at: {', '.join(warned)}" if warned else verdict])


def main(root: str | Path = ".") -> int:
    """Print the diagnosis; 1 where something that is needed does not work."""
    checks = diagnose(root)
    print(show(checks))
    return int(any(check.status == "fail" for check in checks))


def _guarded(name: str, look: Callable[[Path], Check], root: Path) -> Check:
    """A check that breaks is itself the finding: a broken library may raise anything at all when it is imported."""
    try:
        return look(root)
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        return Check(name, "fail", f"{type(error).__name__}: {first}", "`make clean setup` makes the environment anew")


# --- the environment ----------------------------------------------------------------------------------------


def _python(root: Path) -> Check:
    version, where = platform.python_version(), sys.prefix
    if not (3, 11) <= sys.version_info < (3, 14):
        return Check("Python", "fail", f"{version} in {where}", "make PYTHON=/path/to/python3.11 setup (or 3.12, 3.13)")
    if sys.version_info >= (3, 12):
        return Check("Python", "warn", f"{version} in {where}", "tested with 3.11; the packages resolve for this one too")
    return Check("Python", "ok", f"{version} in {where}")


def _torch(root: Path) -> Check:
    import torch

    from alpro.config import Launch
    from alpro.system import gpus

    cores = len(os.sched_getaffinity(0))
    world = f"launch.processes=null starts {Launch(processes=None).world}"
    if torch.cuda.device_count() != gpus.count():
        detail = f"{torch.__version__} finds {torch.cuda.device_count()} GPUs, the driver {gpus.count()}; {cores} cores"
        return Check("torch", "warn", detail, "set launch.processes to the GPUs that torch finds, or mend the driver")
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        listed = ", ".join(f"{card.name} ({card.total_memory / 2**30:.0f} GB)" for card in cards)
        return Check("torch", "ok", f"{torch.__version__}, {len(cards)} GPU: {listed}; {cores} cores; {world}")
    if torch.version.cuda:
        remedy = "fine without a GPU; with one, look at nvidia-smi: the driver is missing or too old"
        return Check("torch", "warn", f"{torch.__version__}, a CUDA build that finds no GPU; {cores} cores; {world}", remedy)
    return Check("torch", "ok", f"{torch.__version__}, on {cores} CPU cores; {world}")


def _model_libraries(root: Path) -> Check:
    from alpro.models import torchvision_shim as torchvision_cure

    vision = torchvision_cure.torchvision
    import timm
    import transformers
    from transformers.models.bert import modeling_bert  # noqa: F401  (fails where torchvision does)

    cured = " (a CUDA build beside a CPU torch: made importable)" if hasattr(torchvision_cure, "OPERATORS") else ""
    detail = f"timm {timm.__version__}, transformers {transformers.__version__}, torchvision {vision.__version__}{cured}"
    return Check("model libraries", "ok", detail)


def _horovod(root: Path) -> Check:
    import torch

    if importlib.util.find_spec("horovod") is None:
        return Check("Horovod", "warn", "not installed: one process only", "`make setup` builds and installs it")
    import horovod.torch as hvd

    if not hasattr(hvd, "gloo_built"):
        return Check("Horovod", "fail", "its library does not load with this torch", "`make horovod` builds it for this torch")
    built = {"Gloo": hvd.gloo_built(), "NCCL": hvd.nccl_built(), "MPI": hvd.mpi_built()}
    detail = f"{metadata.version('horovod')} with {', '.join(name for name in built if built[name])}"
    beside = Path(sys.executable).with_name("horovodrun")
    if not beside.exists() and shutil.which("horovodrun") is None:
        return Check("Horovod", "fail", f"{detail}, without horovodrun", "`make horovod`")
    if torch.cuda.device_count() > 1 and not hvd.nccl_built():
        remedy = "several GPUs exchange gradients through the CPU; `make horovod-gpu` builds for NCCL"
        return Check("Horovod", "warn", detail, remedy)
    return Check("Horovod", "ok", detail)


# --- reading videos -----------------------------------------------------------------------------------------


def _decoders(root: Path) -> Check:
    """Encode a clip with PyAV, read it with both decoders, compare the pixels."""
    import av
    import numpy as np

    clip = _made_clip()
    with av.open(BytesIO(clip), "r") as container:
        ours = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    detail = f"PyAV {av.__version__}"
    if len(ours) != CLIP_FRAMES:
        return Check("decoders", "fail", f"{detail} reads {len(ours)} of {CLIP_FRAMES} frames", "`make clean setup`")
    if importlib.util.find_spec("decord") is None:
        return Check("decoders", "warn", f"{detail}; no decord", "videos are read by PyAV alone; `make setup` installs decord")
    import decord

    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(clip)
        file.flush()
        theirs = decord.VideoReader(file.name, num_threads=1).get_batch(range(CLIP_FRAMES)).asnumpy()
    detail = f"decord {decord.__version__}, {detail}, H.264"
    apart = int(np.abs(theirs.astype(int) - ours).max())
    if apart > 2:
        remedy = "figures may differ a little between files that decord reads and files that PyAV reads"
        return Check("decoders", "warn", f"{detail}: pixels differ by up to {apart}", remedy)
    return Check("decoders", "ok", f"{detail}: the same pixels from both")


def _made_clip() -> bytes:
    """A short H.264 .mp4 in memory."""
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


# --- the machine --------------------------------------------------------------------------------------------


def _compiler(root: Path) -> Check:
    compiler = os.environ.get("CXX") or next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if compiler is None or not headers.exists():
        lacks = "C++ compiler" if compiler is None else "Python.h"
        return Check("compiler", "warn", f"no {lacks}", "only needed to build Horovod: g++ and Python's headers (python3-dev)")
    words = [*compiler.split(), "--version"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER_S, check=True).stdout
    return Check("compiler", "ok", next(iter(told.splitlines()), compiler))


def _disk(root: Path) -> Check:
    if not os.access(root, os.W_OK):
        return Check("disk", "fail", f"no permission to write to {root.resolve()}", "mend the permissions")
    free = shutil.disk_usage(root).free / 1e9
    status: Status = "fail" if free < 1 else "warn" if free < ROOM_GB else "ok"
    remedy = f"the sample recipe wants about {ROOM_GB} GB; `dvc gc -w` frees old results"
    return Check("disk", status, f"{free:.1f} GB free in {root.resolve()}", remedy)


def _memory(root: Path) -> Check:
    available = _meminfo("MemAvailable") / 2**20
    total = _meminfo("MemTotal") / 2**20
    if (limit := _container_limit()) is not None:
        available, total = min(available, limit / 2**30), min(total, limit / 2**30)
    detail = f"{available:.0f} of {total:.0f} GB available"
    if available < MEMORY_GB:
        return Check("memory", "warn", detail, f"the sample recipe takes up to {MEMORY_GB} GB; launch.processes=1 takes half")
    return Check("memory", "ok", detail)


def _meminfo(name: str) -> int:
    """An entry of /proc/meminfo, in KiB."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0


def _container_limit() -> int | None:
    """The memory limit of this control group in bytes, where there is one."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


# --- what stands around the library -------------------------------------------------------------------------


def _dvc(root: Path) -> Check:
    if shutil.which("git") is None:
        return Check("DVC", "fail", "no git", "install git; DVC builds on it")
    if importlib.util.find_spec("dvc") is None:
        return Check("DVC", "fail", "not installed", "`make setup`, or pip install 'alpro[pipeline]'")
    version = metadata.version("dvc")
    asked = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=ANSWER_S,
        env=os.environ | {"DVC_NO_ANALYTICS": "1"},
    )
    if asked.returncode:
        told = (asked.stderr.strip().splitlines() or ["no answer"])[-1].removeprefix("ERROR: ")
        return Check("DVC", "fail", f"{version}: {told}", "run it in the project's folder; `dvc init` makes a new one")
    cache = Path(asked.stdout.strip())
    nearest = next(place for place in (cache, *cache.parents) if place.exists())
    if not os.access(nearest, os.W_OK):
        return Check("DVC", "fail", f"{version}: can't write to its cache {cache}", f"mend the permissions of {nearest}")
    return Check("DVC", "ok", f"{version}, cache {cache}{'' if cache.exists() else ' (empty)'}")


def _mlflow(root: Path) -> Check:
    if importlib.util.find_spec("mlflow") is None:
        return Check("MLflow", "fail", "not installed", "`make setup`, or pip install 'alpro[pipeline]'")
    from alpro.tracking import store

    version, uri = metadata.version("mlflow"), store.store_uri(root)
    shown = store.redacted(uri)
    if not store.exists(uri):
        return Check("MLflow", "ok", f"{version}, store {shown} (made by the first run)")
    try:
        runs = _ask_store(uri, store.sqlite_path(uri))
    except (OSError, sqlite3.Error) as error:
        remedy = "start the server or unset MLFLOW_TRACKING_URI; a broken file may go: `alpro track sync` fills a new one"
        return Check("MLflow", "fail", f"{version}, store {shown}: {error}", remedy)
    return Check("MLflow", "ok", f"{version}, store {shown} ({runs})")


def _ask_store(uri: str, file: Path | None) -> str:
    """Return what the store answers. Raises OSError or sqlite3.Error."""
    from alpro.tracking import store

    if file is not None:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=5)) as database:
            return f"{database.execute('SELECT count(*) FROM runs').fetchone()[0]} runs"
    if store.is_server(uri):
        store.probe_server(uri)
        return "answers"
    return "not probed"


def _champions(root: Path) -> Check:
    """Whether the gate put every champion where it is."""
    if importlib.util.find_spec("mlflow") is None:
        return Check("champions", "ok", "no MLflow, no registry")
    from alpro.tracking import store

    if not store.exists(store.store_uri(root)):
        return Check("champions", "ok", "none yet")
    from alpro.registry import aliases

    with store.opened(root) as opened:
        models = [model.name for model in opened.client.search_registered_models()]
        crowned = [name for name in models if aliases.version_at(opened.client, name, "champion")]
        wrong = [said for name in models if (said := aliases.alias_mismatch(opened.client, name))]
    if wrong:
        return Check("champions", "warn", "; ".join(wrong), "`alpro lineage models:/NAME@champion` tells where it comes from")
    return Check("champions", "ok", ", ".join(crowned) or "none yet")


def _prefect(root: Path) -> Check:
    if importlib.util.find_spec("prefect") is None:
        return Check("Prefect", "warn", "not installed: no flows", "`make setup`, or pip install 'alpro[pipeline]'")
    version, fastapi = metadata.version("prefect"), metadata.version("fastapi")
    if tuple(int(part) for part in fastapi.split(".")[:2]) >= (0, 155):
        return Check("Prefect", "fail", f"{version} with fastapi {fastapi}", "flows need fastapi<0.155: `make setup`")
    quiet = os.environ | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    asked = subprocess.run(
        [sys.executable, "-c", "import prefect"], cwd=root, capture_output=True, text=True, timeout=ANSWER_S, env=quiet
    )
    if asked.returncode:
        return Check("Prefect", "fail", f"{version}: {asked.stderr.strip().splitlines()[-1]}", "`make clean setup`")
    server = os.environ.get("PREFECT_API_URL")
    return Check("Prefect", "ok", f"{version}, {f'server {server}' if server else 'its embedded server'}")


def _great_expectations(root: Path) -> Check:
    if importlib.util.find_spec("great_expectations") is None:
        return Check("Great Expectations", "fail", "not installed", "`make setup`, or pip install 'alpro[pipeline]'")
    return Check("Great Expectations", "ok", metadata.version("great_expectations"))


CHECKS: dict[str, Callable[[Path], Check]] = {
    "Python": _python,
    "torch": _torch,
    "model libraries": _model_libraries,
    "Horovod": _horovod,
    "decoders": _decoders,
    "compiler": _compiler,
    "disk": _disk,
    "memory": _memory,
    "DVC": _dvc,
    "MLflow": _mlflow,
    "champions": _champions,
    "Great Expectations": _great_expectations,
    "Prefect": _prefect,
}
