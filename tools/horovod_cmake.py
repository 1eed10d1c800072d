#!/usr/bin/env python3
"""Replaces cmake while Horovod is built (its HOROVOD_CMAKE): patches the unpacked sources, then calls cmake.

1. C++20 instead of 14, which torch's headers need.  2. A policy setting, without which CMake 4 refuses Gloo's old files.
3. The library's location without a regular expression made from the sources' path, which fails if the path has a `+`.
4. The interface of the run for all connections. Horovod forgets HOROVOD_GLOO_IFACE for those of a process set, the default
   one included, and takes the address of the host's own name: another network, loopback, or none, which crashes.
5. Torch's tensors and Python bindings instead of all headers of torch, which take most of the time to compile.
6. Waits that sleep. Horovod asks without end whether an exchange is finished, and Gloo whether its other thread has let go of
   a buffer, on cores that the ranks' computations need.
And without GPU operations:
7. No search for CUDA: a CUDA build of torch and any nvcc would enable half of it. Facts about torch are written into the
   sources, because Horovod asks for them with seven programs that import torch, whose dependencies may not be installed yet.
8. CMake's unity build: four large units instead of sixty, so that a header is parsed once or twice and not thirty times.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path

import build_horovod

# Sources per unit: Horovod's library becomes two units that take equally long, one with Eigen's and one with torch's headers.
UNIT = 20
# What cmake/Modules/FindPytorch.cmake finds out; torch has used the C++11 ABI alone since version 2.7.
FACTS = """\
set(Pytorch_VERSION "{version}")
set(Pytorch_CUDA FALSE)
set(Pytorch_ROCM FALSE)
set(Pytorch_CXX11 TRUE)
set(Pytorch_COMPILE_FLAGS "-D_GLIBCXX_USE_CXX11_ABI=1")
set(Pytorch_INCLUDE_DIRS "{torch}/include;{torch}/include/torch/csrc/api/include")
foreach(LIBRARY c10 torch torch_cpu torch_python)
    find_library(TORCH_LIBRARY_${{LIBRARY}} ${{LIBRARY}} PATHS "{torch}/lib" NO_DEFAULT_PATH REQUIRED)
    list(APPEND Pytorch_LIBRARIES ${{TORCH_LIBRARY_${{LIBRARY}}}})
endforeach()
set(PYTORCH_FOUND TRUE)
"""
HANDLES, QUEUE = "horovod/torch/handle_manager", "horovod/common/tensor_queue"
# (file, pattern, replacement). A finished exchange wakes the thread that waits for it; the release of a buffer, a matter of
# microseconds, is polled. A queued tensor wakes Horovod's own thread, which otherwise sleeps for HOROVOD_CYCLE_TIME: a cycle
# waits for all ranks anyway. A tensor that other ranks have not queued yet is announced again after a millisecond.
SLEEPING_WAITS = (
    (f"{HANDLES}.h", r"#include <atomic>\n", "#include <atomic>\n#include <condition_variable>\n"),
    (f"{HANDLES}.h", r"(bool PollHandle\(int handle\);\n)", r"\1  void WaitHandle(int handle);\n"),
    (f"{HANDLES}.h", r"(std::mutex mutex_;\n)", r"\1  std::condition_variable finished_;\n"),
    (
        f"{HANDLES}.cc",
        r"(std::make_shared<Status>\(status\);\n)\}\n",
        r"""\1  finished_.notify_all();
}

void HandleManager::WaitHandle(int handle) {
  std::unique_lock<std::mutex> lock(mutex_);
  finished_.wait(lock, [&] {
    auto result = results_.find(handle);
    if (result == results_.end()) {
      throw std::invalid_argument("Handle " + std::to_string(handle) +
                                  " was not created or has been cleared.");
    }
    return result->second != nullptr;
  });
}
""",
    ),
    (
        "horovod/torch/mpi_ops_v2.cc",
        r"  while \(true\) \{\n    if \(handle_manager\.PollHandle\(handle\)\) break;\n    \{\n"
        r" +(py::gil_scoped_release release_python_gil;\n) +std::this_thread::yield\(\);\n    \}\n  \}\n",
        r"  {\n    \1    handle_manager.WaitHandle(handle);\n  }\n",
    ),
    ("third_party/gloo/gloo/common/memory.h", r"#include <memory>\n", "#include <chrono>\n#include <memory>\n"),
    (
        "third_party/gloo/gloo/common/memory.h",
        r"std::this_thread::yield\(\);",
        "std::this_thread::sleep_for(std::chrono::microseconds(20));",
    ),
    (f"{QUEUE}.h", r"#include <iostream>\n", "#include <chrono>\n#include <iostream>\n"),
    (
        f"{QUEUE}.h",
        r"(  void RemoveJoinTensor\(\);\n)",
        r"\1\n  static void WaitForTensor(std::chrono::steady_clock::duration longest);\n",
    ),
    (
        f"{QUEUE}.cc",
        r"(#include \"logging\.h\"\n\nnamespace horovod \{\nnamespace common \{\n)",
        r"""#include <algorithm>
#include <condition_variable>

\1
namespace {
std::mutex wake_mutex;
std::condition_variable wake;
bool queued = false;    // a tensor, since the last wait
bool announced = false; // a tensor that other ranks have not queued yet

void Wake() {
  std::lock_guard<std::mutex> guard(wake_mutex);
  queued = true;
  wake.notify_one();
}
} // namespace

void TensorQueue::WaitForTensor(std::chrono::steady_clock::duration longest) {
  std::unique_lock<std::mutex> lock(wake_mutex);
  std::chrono::steady_clock::duration again = std::chrono::milliseconds(1);
  wake.wait_for(lock, announced ? std::min(longest, again) : longest, [] { return queued; });
  queued = announced = false;
}
""",
    ),
    (f"{QUEUE}.cc", r"(?m)^  return Status::OK\(\);\n", "  Wake();\n  return Status::OK();\n"),
    (
        f"{QUEUE}.cc",
        r"(std::deque<Request>& messages\) \{\n)(  std::lock_guard<std::mutex> guard\(mutex_\);\n  while \(!messages\.empty)",
        r"""\1  if (!messages.empty()) {
    std::lock_guard<std::mutex> guard(wake_mutex);
    announced = true;
  }
\2""",
    ),
    (
        "horovod/common/operations.cc",
        r"std::this_thread::sleep_for\(sleep_duration\);",
        "TensorQueue::WaitForTensor(sleep_duration);",
    ),
)


def prepare(source: Path, gpu: bool) -> list[str]:
    """Patch Horovod's unpacked sources in place; return the additional arguments for cmake."""
    for name in ("CMakeLists.txt", "horovod/torch/CMakeLists.txt"):
        _replace(source / name, r"CMAKE_CXX_STANDARD 14\b", "CMAKE_CXX_STANDARD 20")
    _replace(
        source / "cmake/Utilities.cmake",
        r'REGEX REPLACE "\$\{PROJECT_SOURCE_DIR\}\(/\)\?" "" SUB_FOLDER "\$\{CMAKE_CURRENT_SOURCE_DIR\}"',
        'REPLACE "${PROJECT_SOURCE_DIR}/" "" SUB_FOLDER "${CMAKE_CURRENT_SOURCE_DIR}/"',
    )
    for name in ("adapter_v2.h", "mpi_ops_v2.cc"):
        _replace(
            source / "horovod/torch" / name,
            r"#include <torch/extension\.h>\n#include <torch/torch\.h>",
            "#include <torch/csrc/utils/pybind.h>\n#include <torch/types.h>",
        )
    _replace(
        source / "horovod/common/gloo/gloo_context.cc",
        r"(void GlooContext::InitializeForProcessSet\([^{]*\{\n)",
        r"\1  gloo_iface_ = global_context.gloo_iface_;\n",
    )
    for name, pattern, new in SLEEPING_WAITS:
        _replace(source / name, pattern, new)
    # without debugging symbols, with which the wheel has 19 MB instead of 1 MB
    arguments = ["-DCMAKE_POLICY_VERSION_MINIMUM=3.5", "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O2 -DNDEBUG"]
    if gpu:
        # CUDA 13's compiler needs C++17 or later
        _replace(source / "horovod/common/ops/cuda/CMakeLists.txt", r"CMAKE_CUDA_STANDARD 11\b", "CMAKE_CUDA_STANDARD 17")
    else:
        site = Path(sysconfig.get_paths()["purelib"])
        version, _ = build_horovod.torch_version(site)
        facts = FACTS.format(version=version, torch=site / "torch")
        (source / "cmake/Modules/FindPytorch.cmake").write_text(facts, encoding="utf-8")
        arguments += ["-DCMAKE_CUDA_COMPILER=", "-DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON"]
        # its ReductionFunction differs from the one of allreduce_local.h
        alone = (
            'set_source_files_properties("${CMAKE_CURRENT_SOURCE_DIR}/allreduce.cc" PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)'
        )
        _replace(source / "third_party/gloo/gloo/CMakeLists.txt", r"(?=add_library\(gloo )", alone + "\n")
        arguments += ["-DCMAKE_UNITY_BUILD=ON", f"-DCMAKE_UNITY_BUILD_BATCH_SIZE={UNIT}"]
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
