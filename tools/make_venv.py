"""Make .venv: the locked packages, this project, and Horovod built for the torch in it. Needs only Python's own library.

Nothing is done when the stamp, written last, says that it was done. Without one the environment is half-made and is made
anew (packages come out of the installer's cache, Horovod's wheel out of ours); with one for other inputs it is updated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import venv as stdlib_venv
from pathlib import Path
from typing import Any

import build_horovod
import file_lock
import pip_settings

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "alpro-setup.json"
CHOICE = ROOT / ".make" / "horovod"  # which Horovod this checkout wants; outlives .venv
UV = "0.13.9"
INPUTS = ("requirements.lock", "pyproject.toml", "tools/make_venv.py", "tools/build_horovod.py", "tools/horovod_cmake.py")

# What activation does, done by the environment's own Python: so `.venv/bin/dvc repro` in a shell where nothing was
# activated finds this Python in its stages (DVC hands its own PATH on), and so do queue workers, flows and horovodrun.
PATH_LINE = (
    'import os, sys; b = os.path.join(sys.prefix, "bin"); p = os.environ.get("PATH") or os.defpath; '
    'p.split(os.pathsep)[0] == b or os.environ.__setitem__("PATH", b + os.pathsep + p)\n'
)


class SetupError(Exception):
    """The environment can't be made; one line says why and what to do."""


def key(switch: str) -> dict[str, str]:
    """All that the environment is made from; another value of any of them means work."""
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return {
        "inputs": digest.hexdigest(),
        "python": f"{platform.python_version()} {os.path.realpath(sys.executable)}",
        "place": str(ROOT),
        "horovod": f"{build_horovod.VERSION} {switch} r{build_horovod.RECIPE}",
    }


def stamp() -> dict[str, Any]:
    """What .venv was made from; empty when it is half-made, and `None`-free so that any key differs."""
    try:
        read = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def chosen() -> str:
    """The Horovod that this checkout wants: what was last asked for, by default the CPU's."""
    try:
        choice = CHOICE.read_text(encoding="utf-8").strip()
    except OSError:
        return "cpu"
    return choice if choice in build_horovod.SWITCHES else "cpu"


def is_current(switch: str) -> bool:
    """Whether nothing needs to be done."""
    return stamp().get("key") == key(switch) and (VENV / "bin" / "python").exists()


def write_stamp(state: dict[str, Any]) -> None:
    aside = STAMP.with_suffix(".new")
    aside.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, STAMP)


def call(what: str, command: list[str], variables: dict[str, str] | None = None) -> None:
    """Run a step; its output is shown. Raises SetupError."""
    done = subprocess.run(command, cwd=ROOT, env=os.environ | (variables or {}), stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SetupError(f"{what} failed (exit {done.returncode}), see above; the same command goes on from here")


def make_venv(old: dict[str, Any], new: dict[str, str]) -> None:
    """An empty environment with uv in it, unless the one that stands there can be updated."""
    made = old.get("key", {})
    if made.get("python") == new["python"] and made.get("place") == new["place"]:
        return
    if VENV.is_symlink() or (VENV.exists() and not old and any(VENV.iterdir())):
        raise SetupError(f"{VENV} was not made by `make setup`; move it away, this project keeps its own environment there")
    if VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    write_stamp({"state": "half-made"})
    print(f"setup: making .venv with Python {platform.python_version()} ({sys.executable})", flush=True)
    try:
        stdlib_venv.create(VENV, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError as error:
        raise SetupError(f"Python's venv module failed: {error}; on Debian and Ubuntu install python3-venv") from None
    python = VENV / "bin" / "python"
    call("installing uv", [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", f"uv=={UV}"])


def install(switch: str) -> str:
    """Packages, this project, Horovod; returns torch's version."""
    python = VENV / "bin" / "python"
    uv = [str(python), "-m", "uv", "pip", "install", "--python", str(python)]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    variables = pip_settings.uv_environment(str(python))
    variables["UV_LINK_MODE"] = "hardlink" if _same_device() else "copy"
    # Every process of a training imports torch, timm, transformers and MLflow: twice as fast from bytecode, which
    # Python can't write by itself where the environment is read-only or PYTHONDONTWRITEBYTECODE is set.
    variables["UV_COMPILE_BYTECODE"] = "1"
    lock = ROOT / "requirements.lock"
    count = sum(1 for line in lock.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    print(f"setup: installing {count} packages (2 GB with a CPU build of torch, 6 GB with a CUDA build)", flush=True)
    start = time.monotonic()
    call("installing the packages", [*uv, *quiet, *pip_settings.uv_arguments(str(python)), "-r", str(lock)], variables)
    call(
        "installing this project",
        [*uv, "--quiet", "--no-deps", "--no-build-isolation", "--offline", "--editable", str(ROOT)],
        variables,
    )
    site = build_horovod.site_packages(VENV)
    (site / "alpro_path.pth").write_text(PATH_LINE, encoding="utf-8")
    torch, _ = build_horovod.torch_version(site)
    print(f"setup: packages installed in {time.monotonic() - start:.0f} s; torch {torch}", flush=True)
    install_horovod(python, uv, variables, switch)
    return torch


def install_horovod(python: Path, uv: list[str], variables: dict[str, str], switch: str) -> None:
    """Build or fetch the wheel, install it, and see it load; a wheel that doesn't is built once more."""
    built = "nccl_built" if switch == "nccl" else "gloo_built"
    for attempt in range(2):
        start = time.monotonic()
        wheel, fresh = build_horovod.wheel(python, switch)
        if fresh:
            print(f"setup: Horovod built in {time.monotonic() - start:.0f} s, kept in {wheel.parent}", flush=True)
        command = [*uv, "--quiet", "--no-deps", "--offline", "--reinstall-package", "horovod", str(wheel)]
        installed = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True)
        loads = subprocess.run(
            [str(python), "-c", f"import torch, horovod.torch as h; raise SystemExit(not h.{built}())"],
            cwd=VENV,
            capture_output=True,
            text=True,
        )
        if installed.returncode == 0 and loads.returncode == 0:
            return
        if fresh or attempt:
            said = (installed.stderr + loads.stdout + loads.stderr).strip()
            raise SetupError(f"Horovod was built but does not load:\n{said}")
        print(f"setup: the kept wheel of Horovod does not load; building it again ({wheel})", flush=True)
        shutil.rmtree(wheel.parent)


def _same_device() -> bool:
    cache = Path(os.environ.get("UV_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv")
    while not cache.exists():
        cache = cache.parent
    return cache.stat().st_dev == ROOT.stat().st_dev


def run(switch: str) -> None:
    """Bring .venv to what the inputs say."""
    (ROOT / ".make").mkdir(exist_ok=True)
    with file_lock.acquire_or_wait(ROOT / ".make" / "setup.lock", "setting up this checkout"):
        if is_current(switch):
            return
        start, old, new = time.monotonic(), stamp(), key(switch)
        make_venv(old, new)
        write_stamp({"state": "half-made"})
        torch = install(switch)
        aside = CHOICE.with_suffix(".new")
        aside.write_text(switch + "\n", encoding="utf-8")
        os.replace(aside, CHOICE)
        write_stamp({"state": "made", "key": new, "torch": torch})
        print(f"setup: ready in {time.monotonic() - start:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--current", action="store_true", help="only say (exit code 0) whether nothing needs to be done")
    parser.add_argument("--horovod", choices=build_horovod.SWITCHES, help="which Horovod to build and keep from now on")
    arguments = parser.parse_args()
    switch = arguments.horovod or chosen()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that what is under way is ended and cleared
    if arguments.current:
        return 0 if is_current(switch) else 1
    try:
        run(switch)
    except (SetupError, build_horovod.BuildError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = error.filename or VENV
        print(f"setup: {place}: {error.strerror}; free space or mend permissions, and run it again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
