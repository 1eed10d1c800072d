#!/usr/bin/env python3
"""Stands in for cmake while Horovod is built (its HOROVOD_CMAKE): sets the unpacked sources right, then calls cmake.

1. C++20 instead of 14: torch's headers need it.  2. CMake 4 no longer accepts the policies of Gloo's old files unless told.
3. Without GPU operations, no look at CUDA at all: a CUDA build of torch beside any nvcc would switch it on half.
4. The library's place is found by a regular expression out of the sources' path: a `+` in that path puts it nowhere.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path


def prepare(source: Path, gpu: bool) -> list[str]:
    """Edit Horovod's fresh sources in place; returns the additional arguments for cmake."""
    for name in ("CMakeLists.txt", "horovod/torch/CMakeLists.txt"):
        _replace(source / name, r"CMAKE_CXX_STANDARD 14\b", "CMAKE_CXX_STANDARD 20")
    _replace(
        source / "cmake/Utilities.cmake",
        r'REGEX REPLACE "\$\{PROJECT_SOURCE_DIR\}\(/\)\?" "" SUB_FOLDER "\$\{CMAKE_CURRENT_SOURCE_DIR\}"',
        'REPLACE "${PROJECT_SOURCE_DIR}/" "" SUB_FOLDER "${CMAKE_CURRENT_SOURCE_DIR}/"',
    )
    # without debugging symbols, which make a wheel of 19 MB out of one of 1 MB
    arguments = ["-DCMAKE_POLICY_VERSION_MINIMUM=3.5", "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O2 -DNDEBUG"]
    if gpu:
        # CUDA 13's compiler knows nothing before C++17
        _replace(source / "horovod/common/ops/cuda/CMakeLists.txt", r"CMAKE_CUDA_STANDARD 11\b", "CMAKE_CUDA_STANDARD 17")
    else:
        _replace(source / "cmake/Modules/FindPytorch.cmake", r"\(torch\.version\.cuda is not None\)", "(False)")
        arguments += ["-DCMAKE_CUDA_COMPILER=", "-DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON"]
    return arguments


def _replace(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text(encoding="utf-8"))
    if not count:
        sys.exit(f"{path}: nothing to set right; these are not the sources of the Horovod that this recipe is for")
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
