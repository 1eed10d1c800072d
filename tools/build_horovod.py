"""Build Horovod for the torch of an environment, once: the wheel is kept outside the checkout and installed from there.

Horovod has no wheels, and its last release (0.28.1) asks for C++14 where torch's headers need C++20; Horovod's own switch
HOROVOD_CMAKE names a script that may set that right just before configuring (horovod_cmake.py). The cache's key holds all
that the library's binary interface depends on, which pip's own cache does not.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from pathlib import Path

import file_lock
import processes

VERSION = "0.28.1"
RECIPE = 1  # raise it when what is built changes, so that older wheels are not taken
TOOLS = Path(__file__).resolve().parent
SWITCHES = ("cpu", "nccl")


class BuildError(Exception):
    """Horovod can't be built here; the message says why and what to do."""


def cache_root() -> Path:
    """Where wheels are kept: beside no checkout, so that a second clone does not build again."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "alpro" / "wheels"


def site_packages(venv: Path) -> Path:
    """The folder of an environment's packages."""
    return venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def torch_version(site: Path) -> tuple[str, str | None]:
    """(version with its local part, CUDA version or None) of the installed torch, without the seconds of importing it."""
    try:
        text = (site / "torch" / "version.py").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BuildError(f"torch is not installed in {site}; `make setup` installs it") from None
    version = re.search(r"^__version__ = ['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    cuda = re.search(r"^cuda: .*= ['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    if not version:
        raise BuildError(f"{site}/torch/version.py names no version")
    return version[1], cuda[1] if cuda else None


def wheel_key(torch: str, switch: str, python_tag: str | None = None, machine: str | None = None) -> str:
    """The name of the cache's folder: Horovod, torch, Python, platform with its C library, GPU switch, recipe."""
    python_tag = python_tag or f"cp{sys.version_info.major}{sys.version_info.minor}"
    machine = machine or "-".join((sysconfig.get_platform(), *platform.libc_ver()))
    parts = (f"horovod-{VERSION}", f"torch-{torch}", python_tag, machine, switch, f"r{RECIPE}")
    return re.sub(r"[^A-Za-z0-9.+_-]", "_", "-".join(parts))


def cached(key: str) -> Path | None:
    """The wheel of this key, if it was built."""
    return next(iter(sorted((cache_root() / key).glob("horovod-*.whl"))), None)


def gpu_settings(site: Path) -> dict[str, str]:
    """Horovod's variables for a build with NCCL. Raises BuildError with one line where something is missing."""
    torch, cuda = torch_version(site)
    if cuda is None:
        raise BuildError(f"the installed torch {torch} is a CPU build; Horovod with NCCL needs a CUDA build of torch")
    nvcc = shutil.which("nvcc") or next((p for p in ("/usr/local/cuda/bin/nvcc",) if os.access(p, os.X_OK)), None)
    if nvcc is None:
        raise BuildError(f"no nvcc on PATH or in /usr/local/cuda; install the CUDA toolkit {cuda} (the one of torch {torch})")
    home = Path(os.environ.get("CUDA_HOME") or Path(nvcc).resolve().parent.parent)
    given = os.environ.get("HOROVOD_NCCL_HOME")
    places = [Path(given)] if given else [site / "nvidia" / "nccl", home, Path("/usr"), Path("/usr/local")]
    nccl = next((place for place in places if (place / "include" / "nccl.h").is_file()), None)
    if nccl is None:
        looked = ", ".join(str(place / "include") for place in places)
        raise BuildError(f"no nccl.h in {looked}; install NCCL's headers (libnccl-dev), or set HOROVOD_NCCL_HOME")
    return {
        "HOROVOD_GPU": "CUDA",
        "HOROVOD_GPU_OPERATIONS": "NCCL",
        "HOROVOD_CUDA_HOME": str(home),
        "HOROVOD_NCCL_INCLUDE": str(nccl / "include"),
        "HOROVOD_NCCL_LIB": str(nccl / "lib"),
        "HOROVOD_NCCL_LINK": "SHARED",
    }


def jobs() -> int:
    """Compilers at a time: one a core, but no more than memory holds (about 1.5 GB each)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), int(memory / 1.5e9)))


def environment(python: Path, switch: str, work: Path, gpu: dict[str, str]) -> dict[str, str]:
    """The variables of the build: the caller's, less what would steer Horovod or an inner make, plus ours."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HOROVOD_") and name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHONPATH"}
    }
    return kept | gpu | {
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "TMPDIR": str(work),
        "MAKEFLAGS": f"-j{jobs()}",
        "HOROVOD_CMAKE": str(TOOLS / "horovod_cmake.py"),
        "HOROVOD_WITH_PYTORCH": "1",
        "HOROVOD_WITHOUT_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITHOUT_MPI": "1",
        "HOROVOD_WITHOUT_NVTX": "1",
        "HOROVOD_WITH_GLOO": "1",
    }  # fmt: skip


def wheel(python: Path, switch: str) -> tuple[Path, bool]:
    """(wheel, whether it was built just now) for that environment's torch, from the cache or built (3 to 5 minutes on 2 cores).

    It is built aside and renamed into place, under a lock of its key, so a kill or a second build leaves nothing half.
    Raises BuildError.
    """
    site = site_packages(python.parent.parent)
    torch, _ = torch_version(site)
    key, root = wheel_key(torch, switch), cache_root()
    if kept := cached(key):
        return kept, False
    gpu = gpu_settings(site) if switch == "nccl" else {}
    try:
        root.mkdir(parents=True, exist_ok=True)
        guard = file_lock.acquire_or_wait(root / f"{key}.lock", f"building {key}")
    except OSError as error:
        raise BuildError(f"can't write to {root}: {error.strerror}; set XDG_CACHE_HOME to another folder") from None
    with guard:
        if kept := cached(key):
            return kept, False
        _sweep(root, key)
        work = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=root))  # not in /tmp, which may be small or forbid running
        log = root / f"{key}.log"
        label = " with NCCL (not proven: no machine with a GPU has tried it)" if switch == "nccl" else ""
        print(f"setup: building Horovod {VERSION} for torch {torch}{label}", flush=True)
        print(f"setup:   3 to 5 minutes on 2 cores, once; log: {log}", flush=True)
        try:
            out = work / "out"
            if gpu:
                _add_link_name(gpu, work)
            command = [
                *(str(python), "-m", "pip", "wheel", "--no-cache-dir", "--no-deps", "--no-build-isolation"),
                *("--no-binary", "horovod", "--wheel-dir", str(out), f"horovod=={VERSION}", "--verbose"),
            ]
            code = _run_logged(command, log, environment(python, switch, work, gpu))
            built = sorted(out.glob("horovod-*.whl"))
            if code or not built:
                raise BuildError(f"building Horovod failed (exit {code}); the last lines of {log}:\n{_tail(log)}")
            with zipfile.ZipFile(built[0]) as archive:
                if not any(name.startswith("horovod/torch/mpi_lib_v2") for name in archive.namelist()):
                    raise BuildError(f"the built wheel holds no library for torch; see {log}")
            shutil.rmtree(root / key, ignore_errors=True)
            os.replace(out, root / key)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    kept = cached(key)
    assert kept is not None
    return kept, True


def _sweep(root: Path, key: str) -> None:
    """Remove what killed builds of this key left, their compilers first."""
    for left in root.glob(f".{key}.*"):
        processes.stop(pid for pid in processes.pids() if processes.environment(pid).get("TMPDIR") == str(left))
        shutil.rmtree(left, ignore_errors=True)


def _add_link_name(gpu: dict[str, str], work: Path) -> None:
    """NCCL out of a Python wheel has only libnccl.so.2, and the linker asks for libnccl.so."""
    folder = Path(gpu["HOROVOD_NCCL_LIB"])
    if not (folder / "libnccl.so").exists() and (folder / "libnccl.so.2").exists():
        links = work / "nccl"
        links.mkdir()
        (links / "libnccl.so").symlink_to(folder / "libnccl.so.2")
        gpu["HOROVOD_NCCL_LIB"] = str(links)


def _run_logged(command: list[str], log: Path, variables: dict[str, str]) -> int:
    """Run with all output in a file and a sign of life every 30 s. The children end with this process."""
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=variables, start_new_session=True
        )
        try:
            while True:
                try:
                    return child.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    print(f"setup:   still compiling, {time.monotonic() - start:.0f} s", flush=True)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, 15)
            child.wait()
            raise


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
