#!/usr/bin/env python3
"""Replaces cmake while Horovod is built (its HOROVOD_CMAKE): patches the unpacked sources, then calls cmake.

1. C++20 instead of 14, which torch's headers need.  2. A policy setting, without which CMake 4 refuses Gloo's old files.
3. Without GPU operations, no search for CUDA: a CUDA build of torch and any nvcc would enable half of it.
4. The library's location without a regular expression made from the sources' path, which fails if the path has a `+`.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path


def prepare(source: Path, gpu: bool) -> list[str]:
    """Patch Horovod's unpacked sources in place; return the additional arguments for cmake."""
    for name in ("CMakeLists.txt", "horovod/torch/CMakeLists.txt"):
        _replace(source / name, r"CMAKE_CXX_STANDARD 14\b", "CMAKE_CXX_STANDARD 20")
    _replace(
        source / "cmake/Utilities.cmake",
        r'REGEX REPLACE "\$\{PROJECT_SOURCE_DIR\}\(/\)\?" "" SUB_FOLDER "\$\{CMAKE_CURRENT_SOURCE_DIR\}"',
        'REPLACE "${PROJECT_SOURCE_DIR}/" "" SUB_FOLDER "${CMAKE_CURRENT_SOURCE_DIR}/"',
    )
    # without debugging symbols, with which the wheel has 19 MB instead of 1 MB
    arguments = ["-DCMAKE_POLICY_VERSION_MINIMUM=3.5", "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O2 -DNDEBUG"]
    if gpu:
        # CUDA 13's compiler needs C++17 or later
        _replace(source / "horovod/common/ops/cuda/CMakeLists.txt", r"CMAKE_CUDA_STANDARD 11\b", "CMAKE_CUDA_STANDARD 17")
    else:
        _replace(source / "cmake/Modules/FindPytorch.cmake", r"\(torch\.version\.cuda is not None\)", "(False)")
        arguments += ["-DCMAKE_CUDA_COMPILER=", "-DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON"]
    return arguments


def _replace(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text(encoding="utf-8"))
    if not count:
        sys.exit(f"{path}: nothing to patch; these are not the sources of the Horovod version that this script is for")
    path.write_text(text, encoding="utf-8")


def main() -> None:
    arguments = sys.argv[1:]
    if "--build" not in arguments and "--version" not in arguments:
        source = next((Path(a) for a in arguments if (Path(a) / "CMakeLists.txt").is_file()), None)
        if source is not None:
            arguments += prepare(source, gpu=bool(os.environ.get("HOROVOD_GPU_OPERATIONS")))
    os.execvp("cmake", ["cmake", *arguments])


if __name__ == "__main__":
    main()
