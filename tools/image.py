"""Builds the project's container images with docker, podman or buildah, and tests them (`make image`, `make image-test`).

The build context is the last commit, without git's history and settings. Settings of this machine reach the build only through
--option, for example `--option=--volume=/etc/pip.conf:/etc/pip.conf:ro` (podman and buildah) for a mirror of the registry.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("docker", "podman", "buildah")
BASES = {
    "cpu": {},
    "gpu": {
        "BUILD_IMAGE": "nvidia/cuda:13.0.1-devel-ubuntu24.04",
        "RUN_IMAGE": "nvidia/cuda:13.0.1-base-ubuntu24.04",
        "HOROVOD_TARGET": "horovod-gpu",
    },
}
LIMIT_MB = {("run", "cpu"): 3000, ("serve", "cpu"): 1600}  # megabytes of 10^6 bytes
SHARED_MEMORY = "2g"
HOST_NAME = "alpro"  # of a container of buildah
TESTS = {
    "run": (
        "make doctor",
        ".venv/bin/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile",
        ".venv/bin/python -m alpro recipe use tiny",
        "make repro",
    ),
    "serve": ("alpro --version", "alpro serve --help", "python3 -c 'import alpro.api.run, alpro.app.run, mlflow'"),
}


class ImageError(Exception):
    """An image cannot be built or tested; the message says why and what to do."""


def engine() -> str:
    """Return the first engine that works on this machine. Raises ImageError."""
    installed = [name for name in ENGINES if shutil.which(name)]
    for name in installed:
        if subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    found = (
        f"{', '.join(installed)}: `{installed[0]} info` fails, so it cannot be used here" if installed else "no engine found"
    )
    raise ImageError(f"{found}; install docker, podman or buildah (Debian: apt-get install buildah)")


def version() -> str:
    """Return the version of the package."""
    found = re.search(r'__version__ = "(.+)"', (ROOT / "alpro/__init__.py").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def tag(target: str, base: str) -> str:
    """Return the name of an image, for example `alpro:0.1.0-serve`."""
    return ":".join(
        ("alpro", "-".join([version(), *([target] if target != "run" else []), *([base] if base != "cpu" else [])]))
    )


def labels() -> dict[str, str]:
    """Return the labels: what the image is, and the commit it was made from."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return {
        "org.opencontainers.image.title": "alpro",
        "org.opencontainers.image.version": version(),
        "org.opencontainers.image.revision": commit,
        "org.opencontainers.image.licenses": "BSD-3-Clause",
        "org.opencontainers.image.created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def build_command(name: str, target: str, base: str, options: list[str], context: Path) -> list[str]:
    """Return the command that builds an image from a context."""
    words = [name, "bud" if name == "buildah" else "build", "--file", str(context / "Dockerfile"), "--target", target]
    words += ["--tag", tag(target, base)]
    for key, value in BASES[base].items():
        words += ["--build-arg", f"{key}={value}"]
    for key, value in labels().items():
        words += ["--label", f"{key}={value}"]
    if name != "docker":
        words += ["--layers"]
    return [*words, *options, str(context)]


def build(name: str, target: str, base: str, options: list[str]) -> None:
    """Build an image of the last commit and print its size. Raises ImageError if it fails or is too large."""
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    if changed:
        print("image: the checkout has changes that no commit holds; the image has the last commit", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "--extract", "--directory", temporary], input=archive, check=True)
        command = build_command(name, target, base, options, Path(temporary))
        if subprocess.run(command, env=environment(name)).returncode:
            raise ImageError(f"`{shlex.join(command[:2])}` of {tag(target, base)} failed, see its output")
    size_mb, limit_mb = size(name, tag(target, base)) / 1e6, LIMIT_MB.get((target, base))
    print(f"image: {tag(target, base)} has {size_mb:.0f} MB", flush=True)
    if limit_mb and size_mb > limit_mb:
        remedy = "use an index with CPU builds of torch: make image TORCH_INDEX=URL"
        raise ImageError(f"{tag(target, base)}: {size_mb:.0f} MB, {limit_mb} are allowed; {remedy}")


def environment(name: str) -> dict[str, str]:
    """Return the variables of the engine. Buildah as root of a container can isolate a step only by a change of the root."""
    return {"BUILDAH_ISOLATION": "chroot", "BUILDAH_FORMAT": "docker", **os.environ} if name == "buildah" else dict(os.environ)


def size(name: str, image: str) -> int:
    """Return the size of an image in bytes, uncompressed."""
    if name == "buildah":
        return _size_with_buildah(image)
    return int(
        subprocess.run([name, "image", "inspect", "--format", "{{.Size}}", image], capture_output=True, text=True).stdout
    )


def _size_with_buildah(image: str) -> int:
    """Return the size of the files in an image, which buildah does not print exactly."""
    container = _buildah("from", "--pull-never", image)
    try:
        mounted = _buildah("mount", container)
        used = subprocess.run(["du", "--summarize", "--bytes", mounted], capture_output=True, text=True, check=True).stdout
        return int(used.split()[0])
    finally:
        _buildah("rm", container)


def _buildah(*words: str) -> str:
    done = subprocess.run(["buildah", *words], env=environment("buildah"), capture_output=True, text=True)
    if done.returncode:
        raise ImageError(f"`buildah {shlex.join(words)}`: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout.strip()


def test(name: str, target: str, base: str) -> None:
    """Run the checks of an image in one container of it. Raises ImageError with the command that failed."""
    script = "\n".join(["set -e", *(f"echo {shlex.quote(f'+ {line}')}; {line}" for line in TESTS[target])])
    image = tag(target, base)
    with container(name, image, base) as words:
        code = subprocess.run([*words, "sh", "-c", script], env=environment(name)).returncode
    if code:
        raise ImageError(f"{image}: a check failed with exit code {code}, see its output")
    print(f"image: {image} passed", flush=True)


@contextmanager
def container(name: str, image: str, base: str = "cpu", *options: str) -> Iterator[list[str]]:
    """Yield the words before a command that runs in a container of an image. The container is removed afterwards.

    `options`: options of the engine's `run`, for example `--volume=FOLDER:FOLDER`. Raises ImageError if there is no such image.
    """
    if name != "buildah":
        gpus = ["--gpus", "all"] if base == "gpu" else []
        yield [name, "run", "--rm", "--interactive", "--shm-size", SHARED_MEMORY, *gpus, *options, image]
        return
    made = _buildah("from", "--pull-never", image)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            hosts = Path(temporary) / "hosts"  # docker and podman write it themselves; Horovod looks up its own host
            hosts.write_text(f"127.0.0.1 localhost {HOST_NAME}\n", encoding="utf-8")
            words = ["buildah", "run", "--isolation", "chroot", f"--hostname={HOST_NAME}", f"--volume={hosts}:/etc/hosts:ro"]
            yield [*words, *options, made, "--"]
    finally:
        _buildah("rm", made)


def main() -> int:
    """Build or test an image; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("build", "test"))
    parser.add_argument("--target", choices=tuple(TESTS), default="run")
    parser.add_argument("--base", choices=tuple(BASES), default="cpu")
    parser.add_argument("--option", action="append", default=[], help="option of the engine's build command; can be repeated")
    parser.add_argument("--torch-index", default="", help="index with CPU builds of torch")
    arguments = parser.parse_args()
    options = [*arguments.option]
    if arguments.torch_index:
        options += ["--build-arg", f"TORCH_INDEX={arguments.torch_index}"]
    try:
        name = engine()
        if arguments.action == "build":
            build(name, arguments.target, arguments.base, options)
        else:
            test(name, arguments.target, arguments.base)
    except ImageError as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
