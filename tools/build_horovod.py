"""Builds Horovod for the torch of an environment and keeps the wheel outside the checkout.

Horovod publishes no wheels, and its last release (0.28.1) asks for C++14 although torch's headers need C++20. Its setting
HOROVOD_CMAKE names a script that can fix that just before configuring (horovod_cmake.py). Unlike pip's own cache, the key
of this cache contains everything that the library's binary interface depends on.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import file_lock
import processes

VERSION = "0.28.1"
RECIPE = 4  # increase when the build changes, so that older wheels are not used
TOOLS = Path(__file__).resolve().parent
SWITCHES = ("cpu", "nccl")
# What the build needs: torch's headers and libraries, the build tools, and what Horovod's setup.py asks for.
NEEDS = ("torch", "setuptools", "wheel", "packaging", "cmake", "cffi", "pycparser", "cloudpickle", "psutil", "pyyaml")
DURATION = {"cpu": "two to three minutes", "nccl": "several minutes"}
POLL_S = 0.2
NOTICE_S = 30


class BuildError(Exception):
    """Horovod cannot be built here; the message says why and what to do."""


class Stopped(Exception):
    """The build was stopped because the setup was interrupted or failed."""


def cache_root() -> Path:
    """Return the folder of the wheels, outside every checkout, so that a second clone does not build again."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "alpro" / "wheels"


def site_packages(venv: Path) -> Path:
    """Return the folder of an environment's packages."""
    return venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def torch_version(site: Path) -> tuple[str, str | None]:
    """Return the installed torch's version with its local part, and its CUDA version or None. Does not import torch."""
    try:
        text = (site / "torch" / "version.py").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BuildError(f"torch is not installed in {site}; `make setup` installs it") from None
    version = re.search(r"^__version__ = ['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    cuda = re.search(r"^cuda: .*= ['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    if not version:
        raise BuildError(f"{site}/torch/version.py does not contain a version; reinstall torch with `make setup`")
    return version[1], cuda[1] if cuda else None


def wheel_key(torch: str, switch: str, python_tag: str | None = None, machine: str | None = None) -> str:
    """Return the name of a wheel's folder: Horovod, torch, Python, platform with C library, GPU switch, recipe."""
    python_tag = python_tag or f"cp{sys.version_info.major}{sys.version_info.minor}"
    machine = machine or "-".join((sysconfig.get_platform(), *platform.libc_ver()))
    fields = (f"horovod-{VERSION}", f"torch-{torch}", python_tag, machine, switch, f"r{RECIPE}")
    return re.sub(r"[^A-Za-z0-9.+_-]", "_", "-".join(fields))


def cached(key: str) -> Path | None:
    """Return the wheel of this key, or None if it was not built yet."""
    return next(iter(sorted((cache_root() / key).glob("horovod-*.whl"))), None)


def gpu_settings(site: Path) -> dict[str, str]:
    """Return Horovod's variables for a build with NCCL. Raises BuildError if something is missing."""
    torch, cuda = torch_version(site)
    if cuda is None:
        raise BuildError(f"the installed torch {torch} is a CPU build; Horovod with NCCL needs a CUDA build of torch")
    nvcc = shutil.which("nvcc") or next((p for p in ("/usr/local/cuda/bin/nvcc",) if os.access(p, os.X_OK)), None)
    if nvcc is None:
        raise BuildError(f"no nvcc on PATH or in /usr/local/cuda; install the CUDA toolkit {cuda} (the one of torch {torch})")
    home = Path(os.environ.get("CUDA_HOME") or Path(nvcc).resolve().parent.parent)
    nccl_home = os.environ.get("HOROVOD_NCCL_HOME")
    candidates = [Path(nccl_home)] if nccl_home else [site / "nvidia" / "nccl", home, Path("/usr"), Path("/usr/local")]
    nccl = next((folder for folder in candidates if (folder / "include" / "nccl.h").is_file()), None)
    if nccl is None:
        searched = ", ".join(str(folder / "include") for folder in candidates)
        raise BuildError(f"no nccl.h in {searched}; install NCCL's headers (libnccl-dev), or set HOROVOD_NCCL_HOME")
    return {
        "HOROVOD_GPU": "CUDA",
        "HOROVOD_GPU_OPERATIONS": "NCCL",
        "HOROVOD_CUDA_HOME": str(home),
        "HOROVOD_NCCL_INCLUDE": str(nccl / "include"),
        "HOROVOD_NCCL_LIB": str(nccl / "lib"),
        "HOROVOD_NCCL_LINK": "SHARED",
    }


def jobs() -> int:
    """Return the number of parallel compilers: one per core, limited by memory (about 1.5 GB each)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), int(memory / 1.5e9)))


def environment(python: Path, switch: str, work: Path, gpu: dict[str, str]) -> dict[str, str]:
    """Return the variables of the build: the caller's, without those that affect Horovod or an inner make, plus ours."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HOROVOD_") and name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHONPATH"}
    }
    return inherited | gpu | {
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


@contextlib.contextmanager
def in_background(python: Path, switch: str) -> Iterator[Future[tuple[Path, bool]]]:
    """Call `wheel` in a thread, and yield its future result. If the block fails or is interrupted, stop the compilers."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        try:
            yield executor.submit(wheel, python, switch, stop)
        finally:
            stop.set()


def wheel(python: Path, switch: str, stop: threading.Event | None = None) -> tuple[Path, bool]:
    """Return the wheel for that environment's torch, and True if it was built just now (two to three minutes on 2 cores).

    The wheel is built in a temporary folder and renamed into place, under a lock per key, so that neither a kill nor a
    second build leaves half a wheel. Raises BuildError, and Stopped soon after `stop` is set.
    """
    start = time.monotonic()
    stop = stop or threading.Event()
    site = site_packages(python.parent.parent)
    torch, _ = torch_version(site)
    key, root = wheel_key(torch, switch), cache_root()
    if existing := cached(key):
        return existing, False
    gpu = gpu_settings(site) if switch == "nccl" else {}
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = file_lock.acquire_or_wait(root / f"{key}.lock", f"building {key}", lambda: _raise_if(stop))
    except OSError as error:
        raise BuildError(f"{root}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to another folder") from None
    with lock:
        if existing := cached(key):
            return existing, False
        _sweep(root, key)
        work = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=root))  # not in /tmp, which may be small or mounted noexec
        log = root / f"{key}.log"
        label = " with NCCL (not tested on a machine with a GPU)" if switch == "nccl" else ""
        print(f"setup: building Horovod {VERSION} for torch {torch}{label}", flush=True)
        print(f"setup:   {DURATION[switch]} on 2 cores, once; log: {log}", flush=True)
        try:
            out = work / "out"
            if gpu:
                _add_link_name(gpu, work)
            command = [
                *(str(python), "-m", "pip", "wheel", "--no-cache-dir", "--no-deps", "--no-build-isolation"),
                *("--no-binary", "horovod", "--wheel-dir", str(out), f"horovod=={VERSION}", "--verbose"),
            ]
            code = _run_logged(command, log, environment(python, switch, work, gpu), stop)
            built = sorted(out.glob("horovod-*.whl"))
            if code or not built:
                raise BuildError(f"building Horovod failed (exit {code}); the last lines of {log}:\n{_tail(log)}")
            with zipfile.ZipFile(built[0]) as archive:
                if not any(name.startswith("horovod/torch/mpi_lib_v2") for name in archive.namelist()):
                    raise BuildError(f"the built wheel contains no library for torch; see {log}")
            shutil.rmtree(root / key, ignore_errors=True)
            os.replace(out, root / key)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    built_wheel = cached(key)
    assert built_wheel is not None
    print(f"setup: Horovod built in {time.monotonic() - start:.0f} s, stored in {built_wheel.parent}", flush=True)
    return built_wheel, True


def _sweep(root: Path, key: str) -> None:
    """Stop the compilers of killed builds of this key, and remove their folders."""
    for leftover in root.glob(f".{key}.*"):
        processes.stop(pid for pid in processes.pids() if processes.environment(pid).get("TMPDIR") == str(leftover))
        shutil.rmtree(leftover, ignore_errors=True)


def _add_link_name(gpu: dict[str, str], work: Path) -> None:
    """Link libnccl.so, which the linker asks for, to libnccl.so.2, the only name in NCCL's Python wheel."""
    folder = Path(gpu["HOROVOD_NCCL_LIB"])
    if not (folder / "libnccl.so").exists() and (folder / "libnccl.so.2").exists():
        links = work / "nccl"
        links.mkdir()
        (links / "libnccl.so").symlink_to(folder / "libnccl.so.2")
        gpu["HOROVOD_NCCL_LIB"] = str(links)


def _run_logged(command: list[str], log: Path, variables: dict[str, str], stop: threading.Event) -> int:
    """Run a command with its output in a file, and print a line every 30 s. If interrupted, stop its processes.

    Raises Stopped if `stop` is set before the command has ended.
    """
    start = time.monotonic()
    notice = start + NOTICE_S
    with log.open("w", encoding="utf-8") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=variables, start_new_session=True
        )
        try:
            while (code := child.poll()) is None:
                _raise_if(stop)
                stop.wait(POLL_S)
                if time.monotonic() > notice:
                    print(f"setup:   still compiling Horovod, {time.monotonic() - start:.0f} s", flush=True)
                    notice += NOTICE_S
            return code
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            child.wait()
            raise


def _raise_if(stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopped


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
