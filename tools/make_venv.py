"""Makes .venv: the locked packages, this project, and Horovod built for its torch. Needs only the standard library.

Torch and the build tools are installed first; Horovod is then built while the other packages are installed. It may also be
left out.

A stamp file, written last, records the inputs. If they are unchanged, nothing is done; if they changed, the environment is
updated. Without a stamp it is incomplete and is made again (packages come from the installer's cache, Horovod from ours).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
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
CHOICE = ROOT / ".make" / "horovod"  # which Horovod this checkout uses; kept when .venv is removed
NONE = "none"
CHOICES = (*build_horovod.SWITCHES, NONE)
UV = "0.13.9"
INPUTS = ("requirements.lock", "pyproject.toml", "tools/make_venv.py", "tools/build_horovod.py", "tools/horovod_cmake.py")

# Does what activation does, in every Python of the environment. So `.venv/bin/dvc repro` finds this Python in its stages
# without activation (DVC passes its PATH on), and so do queue workers, flows and horovodrun.
PATH_LINE = (
    'import os, sys; b = os.path.join(sys.prefix, "bin"); p = os.environ.get("PATH") or os.defpath; '
    'p.split(os.pathsep)[0] == b or os.environ.__setitem__("PATH", b + os.pathsep + p)\n'
)


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


def key(switch: str) -> dict[str, str]:
    """Return everything that the environment is made from; if any value changes, it must be updated."""
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return {
        "inputs": digest.hexdigest(),
        "python": f"{platform.python_version()} {os.path.realpath(sys.executable)}",
        "place": str(ROOT),
        "horovod": NONE if switch == NONE else f"{build_horovod.VERSION} {switch} r{build_horovod.RECIPE}",
    }


def stamp() -> dict[str, Any]:
    """Return the content of the stamp file; empty if it is missing or damaged."""
    try:
        read = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def chosen() -> str:
    """Return the kind of Horovod that was last chosen for this checkout; by default cpu."""
    try:
        choice = CHOICE.read_text(encoding="utf-8").strip()
    except OSError:
        return "cpu"
    return choice if choice in CHOICES else "cpu"


def is_current(switch: str) -> bool:
    """Return True if the environment is up to date."""
    return stamp().get("key") == key(switch) and (VENV / "bin" / "python").exists()


def write_stamp(state: dict[str, Any]) -> None:
    """Write the stamp file atomically."""
    temporary = STAMP.with_suffix(".new")
    temporary.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, STAMP)


def call(step: str, command: list[str], variables: dict[str, str] | None = None) -> None:
    """Run one step and show its output. Raises SetupError if it fails."""
    done = subprocess.run(command, cwd=ROOT, env=os.environ | (variables or {}), stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SetupError(f"{step} failed (exit {done.returncode}), see its output; run the same command again to continue")


def make_venv(old: dict[str, Any], new: dict[str, str]) -> None:
    """Make an empty environment with uv in it, unless the existing one can be updated."""
    old_key = old.get("key", {})
    if old_key.get("python") == new["python"] and old_key.get("place") == new["place"]:
        return
    if VENV.is_symlink() or (VENV.exists() and not old and any(VENV.iterdir())):
        raise SetupError(f"{VENV} was not made by `make setup`; move it away, as this project keeps its environment there")
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
    """Install the packages, this project and, unless `switch` is none, Horovod; return torch's version."""
    python = VENV / "bin" / "python"
    pip = [str(python), "-m", "uv", "pip"]
    uv = [*pip, "install", "--python", str(python)]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    variables = pip_settings.uv_environment(str(python))
    variables["UV_LINK_MODE"] = "hardlink" if _same_device() else "copy"
    # Every process of a training imports torch, timm, transformers and MLflow, which is twice as fast from bytecode.
    # Python cannot write that itself if the environment is read-only or PYTHONDONTWRITEBYTECODE is set.
    variables["UV_COMPILE_BYTECODE"] = "1"
    arguments = [*quiet, *pip_settings.uv_arguments(str(python))]
    lock = ROOT / "requirements.lock"
    pins = [line for line in lock.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    print(f"setup: installing {len(pins)} packages (2 GB with a CPU build of torch, 6 GB with a CUDA build)", flush=True)
    start = time.monotonic()
    if switch == "cpu":  # so that the build starts early; with NCCL it imports torch, and so needs all packages
        # their bytecode is compiled during the build, so that it starts earlier
        needed = [pin for pin in pins if re.split(r"[=\s]", pin)[0] in build_horovod.NEEDS]
        first = [*uv, "--no-deps", *arguments, *needed]
        call("installing torch and the tools to build Horovod", first, variables | {"UV_COMPILE_BYTECODE": "0"})
    else:
        call("installing the packages", [*uv, *arguments, "-r", str(lock)], variables)
    with contextlib.nullcontext() if switch == NONE else build_horovod.in_background(python, switch) as build:
        call("installing the packages", [*uv, *arguments, "-r", str(lock)], variables)
        compile_bytecode(python)
        call(
            "installing this project",
            [*uv, "--quiet", "--no-deps", "--no-build-isolation", "--offline", "--editable", str(ROOT)],
            variables,
        )
        site = build_horovod.site_packages(VENV)
        (site / "alpro_path.pth").write_text(PATH_LINE, encoding="utf-8")
        torch, _ = build_horovod.torch_version(site)
        print(f"setup: packages installed in {time.monotonic() - start:.0f} s; torch {torch}", flush=True)
        built = None if build is None else build.result()
    if built is None:
        call("removing Horovod", [*pip, "uninstall", "--quiet", "--python", str(python), "horovod"], variables)
    else:
        install_horovod(python, uv, variables, switch, *built)
    return torch


def compile_bytecode(python: Path) -> None:
    """Compile the modules that have no bytecode; uv compiles only what the same command installs."""
    site = build_horovod.site_packages(VENV)
    # some packages contain files that no Python of today can compile, and do not import them
    subprocess.run([str(python), "-m", "compileall", "-qq", "-j", "0", str(site)], stdout=subprocess.DEVNULL, check=False)


def install_horovod(python: Path, uv: list[str], variables: dict[str, str], switch: str, wheel: Path, fresh: bool) -> None:
    """Install the wheel and check that it loads. One that does not, and is not `fresh` from the build, is built again."""
    built = "nccl_built" if switch == "nccl" else "gloo_built"
    while True:
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
        if fresh:
            output = (installed.stderr + loads.stdout + loads.stderr).strip()
            raise SetupError(f"Horovod was built but does not load:\n{output}")
        print(f"setup: the cached wheel of Horovod does not load; building it again ({wheel})", flush=True)
        shutil.rmtree(wheel.parent)
        wheel, _ = build_horovod.wheel(python, switch)
        fresh = True


def _same_device() -> bool:
    cache = Path(os.environ.get("UV_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv")
    while not cache.exists():
        cache = cache.parent
    return cache.stat().st_dev == ROOT.stat().st_dev


def run(switch: str) -> None:
    """Make or update .venv, under the lock of this checkout."""
    (ROOT / ".make").mkdir(exist_ok=True)
    with file_lock.acquire_or_wait(ROOT / ".make" / "setup.lock", "setting up this checkout"):
        if is_current(switch):
            return
        start, old, new = time.monotonic(), stamp(), key(switch)
        make_venv(old, new)
        write_stamp({"state": "half-made"})
        torch = install(switch)
        temporary = CHOICE.with_suffix(".new")
        temporary.write_text(switch + "\n", encoding="utf-8")
        os.replace(temporary, CHOICE)
        write_stamp({"state": "made", "key": new, "torch": torch})
        print(f"setup: ready in {time.monotonic() - start:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--current", action="store_true", help="change nothing; exit with 0 if the environment is up to date, else with 1"
    )
    parser.add_argument("--horovod", choices=CHOICES, help="which Horovod to build, now and in later runs")
    arguments = parser.parse_args()
    switch = arguments.horovod or chosen()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SystemExit: running steps are stopped and cleaned up
    if arguments.current:
        return 0 if is_current(switch) else 1
    try:
        run(switch)
    except (SetupError, build_horovod.BuildError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        path = error.filename or VENV
        print(f"setup: {path}: {error.strerror}; free space or fix the permissions, and run it again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
