"""Writes requirements.lock: every package of pyproject.toml and its extras at one version (`make lock`).

The same file must install a CPU build of torch from a folder of wheels and the registry's CUDA build. So it contains no
`+cpu`, no hashes (the two wheels differ), no index and no host. It leaves out packages that only a CUDA build of torch
needs (nvidia-*, cuda-*, triton): torch's own metadata pins their exact versions, and the installer reads it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from pip_settings import uv_arguments

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
OF_CUDA_TORCH = re.compile(r"(nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+|triton|nccl)\b", re.IGNORECASE)
HEADER = """\
# Every package of the environment at one version; written by `make lock` from pyproject.toml, installed by `make setup`.
# Torch has no local part, and packages that only its CUDA build needs are left out, so that both builds install from here.
"""


def clean(text: str) -> list[str]:
    """Return uv's requirement lines without comments, local versions and packages that only a CUDA build of torch needs."""
    lines = []
    for line in text.splitlines():
        line = line.split(" #")[0].strip()
        if not line or line.startswith(("#", "-")) or OF_CUDA_TORCH.match(line):
            continue
        lines.append(re.sub(r"(==[^\s;+]+)\+[^\s;]+", r"\1", line))
    return lines


def main() -> int:
    """Resolve and write requirements.lock. Without --upgrade, locked versions are kept where possible."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="use the newest versions that pyproject.toml allows")
    parser.add_argument("--constraint", type=Path, help="file of version constraints (pip's format)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lock.txt"
        if LOCK.exists() and not arguments.upgrade:
            out.write_text(LOCK.read_text(encoding="utf-8"), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "uv", "pip", "compile", str(ROOT / "pyproject.toml"), "--output-file", str(out)),
            *("--all-extras", "--universal", "--python-version", "3.11", "--no-annotate", "--no-header", "--quiet"),
            *uv_arguments(),
        ]
        if arguments.constraint:
            command += ["--constraint", str(arguments.constraint)]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"UV_NO_PROGRESS": "1"})
        if done.returncode:
            print("lock: requirements.lock was not written; see uv's error above", file=sys.stderr)
            return done.returncode
        lines = clean(out.read_text(encoding="utf-8"))
    temporary = LOCK.with_suffix(".lock.new")
    temporary.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    os.replace(temporary, LOCK)
    print(f"lock: {LOCK.name} lists {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
