"""The tools: checks before the setup, requirements.lock, Horovod's wheel, locks, and leftovers of killed runs."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import textwrap
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import build_horovod
import clear_dvc_lock
import horovod_cmake
import lock_requirements
import make_venv
import pip_settings
import processes
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flows import stray_files
from flows import ui as make_ui

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
LOCKED = {
    canonicalize_name(r.name): r
    for r in (Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#"))
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
HEADERS = Path(sysconfig.get_path("include"), "Python.h"), Path(torch.__file__).with_name("include")
can_build = pytest.mark.skipif(
    not all(path.exists() for path in HEADERS) or importlib.util.find_spec("ensurepip") is None,
    reason="headers of Python or torch, or Python's venv module, are missing, as in the image",
)


def wait_until(holds: object, seconds: float = 20) -> None:
    """Wait until a condition holds; fail if it takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.02)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that sleeps until the end of the test."""
    child = subprocess.Popen(["sleep", "300"])
    yield child
    child.kill()
    child.wait()


# --- the lock file ------------------------------------------------------------------------------------------


def test_lock_pins_every_package_for_any_index() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "--hash" not in text
    assert "://" not in text
    assert "+" not in re.sub(r";.*", "", text), "a local version fits one build of torch only"
    for requirement in LOCKED.values():
        assert [s.operator for s in requirement.specifier] == ["=="], requirement
    assert not [name for name in LOCKED if lock_requirements.OF_CUDA_TORCH.match(name)]


def test_lock_satisfies_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, requirements):
        locked = LOCKED[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(next(iter(locked.specifier)).version), f"{requirement} against {locked}"


def test_every_dependency_has_a_comment() -> None:
    text = (ROOT / "pyproject.toml").read_text().partition("dependencies = [")[2].partition("dev = [")[0]
    asked = [line for line in text.splitlines() if line.startswith('    "')]
    assert len(asked) > 20
    assert [line for line in asked if "#" not in line] == []


def test_locking_drops_local_versions_comments_and_cuda_packages() -> None:
    resolved = """
    # by uv
    torch==2.13.0+cpu
    nvidia-cublas==13.1 ; sys_platform == 'linux'
    cuda-toolkit==13.0
    triton==3.7.1
    --index-url https://example.org/simple
    numpy==2.4.6    # via torch
    """
    assert lock_requirements.clean(textwrap.dedent(resolved)) == ["torch==2.13.0", "numpy==2.4.6"]


def test_uv_gets_the_settings_of_pip() -> None:
    listed = (
        "global.find-links='/a /b'\nglobal.index-url='https://one/simple'\n:env:.index-url='https://two/simple'\nuser.x='y'\n"
    )
    settings = pip_settings.parse(listed)
    assert settings == {"find-links": "/a /b", "index-url": "https://two/simple"}


def test_empty_variable_of_pip_hides_no_setting_as_in_pip() -> None:
    assert pip_settings.parse("global.index-url='https://one'\n:env:.index-url=''\n") == {"index-url": "https://one"}


def test_uv_treats_several_indexes_like_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pip_settings, "read", lambda python: {"find-links": "/a", "extra-index-url": "https://b https://c"})
    assert pip_settings.uv_arguments() == [
        *("--find-links", "/a", "--index", "https://b", "--index", "https://c", "--index-strategy", "unsafe-best-match")
    ]


# --- Horovod ------------------------------------------------------------------------------------------------


def test_wheel_key_has_everything_its_binary_depends_on() -> None:
    args = {"torch": "2.13.0+cpu", "switch": "cpu", "python_tag": "cp311", "machine": "linux-x86_64-glibc-2.36"}
    key = build_horovod.wheel_key(**args)
    assert key == "horovod-0.28.1-torch-2.13.0+cpu-cp311-linux-x86_64-glibc-2.36-cpu-r4"
    others = [{"torch": "2.13.0+cu130"}, {"switch": "nccl"}, {"python_tag": "cp312"}, {"machine": "linux-x86_64-glibc-2.39"}]
    keys = {build_horovod.wheel_key(**(args | other)) for other in others}
    assert len(keys | {key}) == 5


def test_wheel_key_is_a_safe_file_name() -> None:
    assert "/" not in build_horovod.wheel_key("2.13.0", "cpu", "cp311", "a/../b c")


def test_wheels_are_kept_outside_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build_horovod.cache_root() == tmp_path / "alpro" / "wheels"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/not/allowed")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert build_horovod.cache_root() == tmp_path / "home" / ".cache" / "alpro" / "wheels"


def test_version_of_torch_is_read_without_importing_it(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    version = tmp_path / "torch" / "version.py"
    version.write_text("__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n")
    assert build_horovod.torch_version(tmp_path) == ("2.13.0+cu130", "13.0")
    version.write_text("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n")
    assert build_horovod.torch_version(tmp_path) == ("2.13.0+cpu", None)
    with pytest.raises(build_horovod.BuildError, match="make setup"):
        build_horovod.torch_version(tmp_path / "nowhere")


def test_gpu_build_for_a_cpu_torch_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n")
    with pytest.raises(build_horovod.BuildError, match=r"^.*CPU build.*CUDA build of torch$"):
        build_horovod.gpu_settings(tmp_path)


def test_gpu_build_reports_missing_nvcc_or_nccl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("HOROVOD_NCCL_HOME", str(tmp_path / "nccl"))
    monkeypatch.setattr(build_horovod.shutil, "which", lambda name: str(tmp_path / "nvcc"))
    with pytest.raises(build_horovod.BuildError, match=re.escape(f"no nccl.h in {tmp_path}/nccl/include")):
        build_horovod.gpu_settings(tmp_path)
    (tmp_path / "nccl" / "include").mkdir(parents=True)
    (tmp_path / "nccl" / "include" / "nccl.h").touch()
    assert build_horovod.gpu_settings(tmp_path)["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    monkeypatch.setattr(build_horovod.shutil, "which", lambda name: None)
    monkeypatch.setattr(build_horovod.os, "access", lambda path, mode: False)
    with pytest.raises(build_horovod.BuildError, match="no nvcc"):
        build_horovod.gpu_settings(tmp_path)


def test_failed_setup_stops_the_compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(python: Path, switch: str, stop: threading.Event) -> tuple[Path, bool]:
        command = ["sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 300"]
        build_horovod._run_logged(command, tmp_path / "log", dict(os.environ), stop)
        raise AssertionError("the build was not stopped")

    monkeypatch.setattr(build_horovod, "wheel", build)
    file = tmp_path / "pid"
    with pytest.raises(make_venv.SetupError), build_horovod.in_background(tmp_path, "cpu") as result:
        wait_until(lambda: file.exists() and file.read_text().strip())
        raise make_venv.SetupError("installing the packages failed")
    assert not processes.alive(int(file.read_text()))
    assert isinstance(result.exception(), build_horovod.Stopped)


def test_build_that_waits_for_another_one_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = build_horovod.cache_root()
    root.mkdir(parents=True)
    key = build_horovod.wheel_key(torch.__version__, "cpu")
    stop = threading.Event()
    stop.set()
    with build_horovod.file_lock.acquire(root / f"{key}.lock"), pytest.raises(build_horovod.Stopped):
        build_horovod.wheel(Path(sys.executable), "cpu", stop)


WAITS = {
    "horovod/torch/handle_manager.h": """\
#include <atomic>
#include <memory>
  bool PollHandle(int handle);
  std::mutex mutex_;
""",
    "horovod/torch/handle_manager.cc": """\
  results_[handle] = std::make_shared<Status>(status);
}
""",
    "horovod/torch/mpi_ops_v2.cc": """\
void WaitAndClear(int handle) {
  while (true) {
    if (handle_manager.PollHandle(handle)) break;
    {
      py::gil_scoped_release release_python_gil;
      std::this_thread::yield();
    }
  }
  auto status = handle_manager.ReleaseHandle(handle);
""",
    "third_party/gloo/gloo/common/memory.h": """\
#include <memory>
    while (!weak.expired()) {
      std::this_thread::yield();
    }
""",
    "horovod/common/tensor_queue.h": """\
#include <iostream>
  void RemoveJoinTensor();
""",
    "horovod/common/tensor_queue.cc": """\
#include "logging.h"

namespace horovod {
namespace common {

Status TensorQueue::AddToTensorQueue(TensorTableEntry& e, Request& message) {
  message_queue_.push(std::move(message));
  return Status::OK();
}
void TensorQueue::PushMessagesToQueue(
    std::deque<Request>& messages) {
  std::lock_guard<std::mutex> guard(mutex_);
  while (!messages.empty()) {
""",
    "horovod/common/operations.cc": "    std::this_thread::sleep_for(sleep_duration);\n",
}


@pytest.fixture
def horovod_sources(tmp_path: Path) -> Path:
    """The lines of Horovod's sources that horovod_cmake.py patches."""
    (tmp_path / "horovod/torch").mkdir(parents=True)
    (tmp_path / "horovod/common/ops/cuda").mkdir(parents=True)
    (tmp_path / "cmake/Modules").mkdir(parents=True)
    (tmp_path / "cmake/Utilities.cmake").write_text(
        'string(REGEX REPLACE "${PROJECT_SOURCE_DIR}(/)?" "" SUB_FOLDER "${CMAKE_CURRENT_SOURCE_DIR}")\n'
    )
    (tmp_path / "CMakeLists.txt").write_text("set(CMAKE_CXX_STANDARD 14)\n")
    (tmp_path / "horovod/torch/CMakeLists.txt").write_text("    set(CMAKE_CXX_STANDARD 14)\n")
    (tmp_path / "horovod/common/ops/cuda/CMakeLists.txt").write_text("set(CMAKE_CUDA_STANDARD 11)\n")
    (tmp_path / "cmake/Modules/FindPytorch.cmake").write_text("execute_process(COMMAND python)\n")
    (tmp_path / "third_party/gloo/gloo").mkdir(parents=True)
    (tmp_path / "third_party/gloo/gloo/CMakeLists.txt").write_text("add_library(gloo ${GLOO_STATIC_OR_SHARED} ${GLOO_SRCS})\n")
    (tmp_path / "horovod/common/gloo").mkdir()
    (tmp_path / "horovod/common/gloo/gloo_context.cc").write_text(
        "void GlooContext::InitializeForProcessSet(const GlooContext& global_context,\n"
        "                                          const std::vector<int>& registered_ranks) {\n  attr device_attr;\n"
    )
    for name in ("adapter_v2.h", "mpi_ops_v2.cc"):
        text = "#include <memory>\n#include <torch/extension.h>\n#include <torch/torch.h>\n"
        (tmp_path / "horovod/torch" / name).write_text(text)
    for name, text in WAITS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "") + text)
    return tmp_path


@can_build
def test_horovod_sources_are_patched_for_torchs_cpp_standard_and_no_cuda(horovod_sources: Path) -> None:
    arguments = horovod_cmake.prepare(horovod_sources, gpu=False)
    assert "STANDARD 20" in (horovod_sources / "CMakeLists.txt").read_text()
    assert "STANDARD 20" in (horovod_sources / "horovod/torch/CMakeLists.txt").read_text()
    facts = (horovod_sources / "cmake/Modules/FindPytorch.cmake").read_text()
    assert "set(Pytorch_CUDA FALSE)" in facts and f'set(Pytorch_VERSION "{torch.__version__}")' in facts
    included = re.search(r'Pytorch_INCLUDE_DIRS "([^"]+)"', facts)
    assert included and all(Path(folder, "torch").is_dir() for folder in included[1].split(";"))
    assert "-DCMAKE_POLICY_VERSION_MINIMUM=3.5" in arguments
    utilities = (horovod_sources / "cmake/Utilities.cmake").read_text()
    assert utilities == 'string(REPLACE "${PROJECT_SOURCE_DIR}/" "" SUB_FOLDER "${CMAKE_CURRENT_SOURCE_DIR}/")\n'


def test_process_sets_use_the_interface_of_the_run(horovod_sources: Path) -> None:
    horovod_cmake.prepare(horovod_sources, gpu=False)
    lines = (horovod_sources / "horovod/common/gloo/gloo_context.cc").read_text().splitlines()
    assert lines[2:] == ["  gloo_iface_ = global_context.gloo_iface_;", "  attr device_attr;"]


def test_waits_sleep(horovod_sources: Path) -> None:
    horovod_cmake.prepare(horovod_sources, gpu=False)
    for name in WAITS:
        assert "yield()" not in (horovod_sources / name).read_text()
    assert "handle_manager.WaitHandle(handle);" in (horovod_sources / "horovod/torch/mpi_ops_v2.cc").read_text()
    assert "WaitForTensor(sleep_duration)" in (horovod_sources / "horovod/common/operations.cc").read_text()
    queue = (horovod_sources / "horovod/common/tensor_queue.cc").read_text()
    assert queue.count("  Wake();\n  return Status::OK();") == 1 and "announced = true;" in queue


def test_cpu_build_parses_headers_once_in_large_units(horovod_sources: Path) -> None:
    assert "-DCMAKE_UNITY_BUILD=ON" in horovod_cmake.prepare(horovod_sources, gpu=False)
    for name in ("adapter_v2.h", "mpi_ops_v2.cc"):
        text = (horovod_sources / "horovod/torch" / name).read_text()
        assert "<torch/types.h>" in text and "extension.h" not in text
    gloo = (horovod_sources / "third_party/gloo/gloo/CMakeLists.txt").read_text().splitlines()
    assert "allreduce.cc" in gloo[0] and gloo[1].startswith("add_library(gloo ")


def test_gpu_build_keeps_cuda(horovod_sources: Path) -> None:
    assert "-DCMAKE_UNITY_BUILD=ON" not in horovod_cmake.prepare(horovod_sources, gpu=True)
    assert "execute_process" in (horovod_sources / "cmake/Modules/FindPytorch.cmake").read_text()
    assert "CUDA_STANDARD 17" in (horovod_sources / "horovod/common/ops/cuda/CMakeLists.txt").read_text()


def test_sources_of_another_horovod_are_refused(horovod_sources: Path) -> None:
    (horovod_sources / "CMakeLists.txt").write_text("set(CMAKE_CXX_STANDARD 17)\n")
    with pytest.raises(SystemExit, match=r"CMakeLists.txt: nothing to patch"):
        horovod_cmake.prepare(horovod_sources, gpu=False)


# --- the environment ----------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all files that the setup reads; make_venv is patched to use it."""
    shutil.copytree(TOOLS, tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(make_venv, "ROOT", tmp_path)
    monkeypatch.setattr(make_venv, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(make_venv, "STAMP", tmp_path / ".venv" / "alpro-setup.json")
    monkeypatch.setattr(make_venv, "CHOICE", tmp_path / ".make" / "horovod")
    return tmp_path


def made(checkout: Path, switch: str = "cpu") -> None:
    """Leave a checkout as if `make setup` had succeeded."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").touch()
    make_venv.write_stamp({"state": "made", "key": make_venv.key(switch)})


def test_environment_is_current_until_an_input_changes(checkout: Path) -> None:
    assert not make_venv.is_current("cpu")
    made(checkout)
    assert make_venv.is_current("cpu")
    assert not make_venv.is_current("nccl")
    for name in make_venv.INPUTS:
        before = (checkout / name).read_bytes()
        (checkout / name).write_bytes(before + b"\n")
        assert not make_venv.is_current("cpu"), name
        (checkout / name).write_bytes(before)
    assert make_venv.is_current("cpu")


@pytest.mark.parametrize("left", ['{"state": "half-made"}', '{"state": "made", "ke', "[]", ""])
def test_incomplete_environment_is_not_current(checkout: Path, left: str) -> None:
    made(checkout)
    make_venv.STAMP.write_text(left)
    assert not make_venv.is_current("cpu")


def test_foreign_environment_is_not_deleted(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "mine").touch()
    with pytest.raises(make_venv.SetupError, match="move it away"):
        make_venv.make_venv({}, make_venv.key("cpu"))
    assert (checkout / ".venv" / "mine").exists()


def test_choice_of_horovod_is_kept_when_the_environment_is_recreated(checkout: Path) -> None:
    assert make_venv.chosen() == "cpu"
    make_venv.CHOICE.parent.mkdir()
    make_venv.CHOICE.write_text("nccl\n")
    assert make_venv.chosen() == "nccl"
    make_venv.CHOICE.write_text("none\n")
    assert make_venv.chosen() == "none"
    make_venv.CHOICE.write_text("nonsense\n")
    assert make_venv.chosen() == "cpu"


def test_environment_puts_its_programs_first_on_path() -> None:
    code = make_venv.PATH_LINE * 2 + "print(os.environ['PATH'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{sys.prefix}/bin:/usr/bin:/bin"


def setup(checkout: Path, path: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run tools/setup.sh with `path` as its PATH."""
    command = ["/bin/sh", str(checkout / "tools" / "setup.sh")]
    return subprocess.run(command, env={"PATH": path, "HOME": str(checkout), **variables}, capture_output=True, text=True)


@pytest.mark.parametrize("package", ["torch", "transformers", "timm", "pandas", "mlflow"])
def test_packages_have_bytecode(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec and spec.origin and Path(importlib.util.cache_from_source(spec.origin)).exists()


def test_missing_requirements_are_all_listed_before_the_setup_starts(checkout: Path) -> None:
    (checkout / "empty").mkdir()
    done = setup(checkout, str(checkout / "empty"))
    assert done.returncode == 1
    for word in ("Python 3.11", "a C++ compiler", "make", "git"):
        assert f"- {word}" in done.stderr
    assert "sudo apt-get install python3 python3-venv python3-dev g++ make git" in done.stderr
    assert "sudo dnf install" in done.stderr
    assert not (checkout / ".venv").exists()


def test_without_horovod_no_compiler_is_required(checkout: Path) -> None:
    (checkout / "empty").mkdir()
    (checkout / ".make").mkdir()
    for choice, arguments in ((None, ["--horovod", "none"]), ("none\n", []), ("none\n", ["--horovod", "cpu"])):
        if choice:
            (checkout / ".make" / "horovod").write_text(choice)
        command = ["/bin/sh", str(checkout / "tools" / "setup.sh"), *arguments]
        environment = {"PATH": str(checkout / "empty"), "HOME": str(checkout)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 1 and "- git" in done.stderr
        assert ("compile Horovod" in done.stderr) == (arguments == ["--horovod", "cpu"]), done.stderr


def test_choice_to_leave_horovod_out_does_not_depend_on_its_version(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(checkout, "none")
    monkeypatch.setattr(make_venv.build_horovod, "RECIPE", 99)
    assert make_venv.is_current("none") and not make_venv.is_current("cpu")


@pytest.mark.parametrize("name", ["it's", 'say "x"', "$HOME", "a;b", "`id`", "a:b", "a&b", "a|b", "a<b", "a\\b", "a*b", "a\nb"])
def test_folder_whose_path_the_tools_misread_is_refused_at_once(checkout: Path, name: str) -> None:
    odd = checkout / name
    shutil.copytree(checkout / "tools", odd / "tools")
    done = setup(odd, os.environ["PATH"])
    assert done.returncode == 1 and "the tools that build Horovod misread a path with one of" in done.stderr
    assert "move the project, or clone it, to another folder" in done.stderr
    assert len(done.stderr.splitlines()) == 1 + name.count("\n") and not done.stdout
    assert [path.name for path in odd.iterdir()] == ["tools"], "nothing was made"


@pytest.mark.parametrize("name", ["a b", "50%20", "what?", "x#1", "größe", "a=b,c~d+e@f(g)[h]"])
def test_other_folders_are_accepted(checkout: Path, name: str) -> None:
    shutil.copytree(checkout / "tools", checkout / name / "tools")
    done = setup(checkout / name, str(checkout / "empty"))
    assert "setup: the following is missing:" in done.stderr and "not supported" not in done.stderr


@can_build
def test_only_the_missing_compiler_is_reported(checkout: Path) -> None:
    programs = checkout / "programs"
    programs.mkdir()
    for name in ("make", "git", "uname", "df", "awk"):
        (programs / name).symlink_to(shutil.which(name) or pytest.skip(f"no {name} here"))
    done = setup(checkout, str(programs), PYTHON=sys.executable, ALPRO_SETUP_MB="1")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("  - ")] == [
        "  - a C++ compiler (g++ 11 or later), to compile Horovod"
    ]
    assert done.stderr.splitlines()[-2:] == [
        "On Debian or Ubuntu: sudo apt-get install g++",
        "On Fedora or RHEL:   sudo dnf install gcc-c++",
    ]


def test_old_compiler_and_full_disk_are_reported(checkout: Path) -> None:
    old = checkout / "old"
    old.mkdir()
    (old / "g++").write_text("#!/bin/sh\nexit 1\n")
    (old / "g++").chmod(0o755)
    done = setup(checkout, f"{old}:{os.environ['PATH']}", PYTHON=sys.executable, ALPRO_SETUP_MB="99999999", CXX="g++ -O1")
    assert "supports C++20 (g++ -O1 does not" in done.stderr
    assert "99999999 MB of free disk" in done.stderr


def test_python_that_is_too_old_is_skipped(checkout: Path) -> None:
    programs = checkout / "programs"
    programs.mkdir()
    (programs / "python3.11").write_text("#!/bin/sh\nexit 1\n")  # like a version manager's placeholder
    (programs / "python3.11").chmod(0o755)
    (programs / "python3").symlink_to(sys.executable)
    done = subprocess.run(
        ["/bin/sh", str(TOOLS / "python.sh")], env={"PATH": str(programs)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(programs / "python3")


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))
    listed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == targets


# --- leftovers of killed runs -------------------------------------------------------------------------------


def rwlock(root: Path, **writers: int) -> Path:
    """Write DVC's lock file as these processes would."""
    path = root / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: {"pid": pid, "cmd": "repro"} for name, pid in writers.items()}
    path.write_text(json.dumps({"write": held, "read": {name: [info] for name, info in held.items()}}))
    return path


def dead_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


@linux
def test_lock_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    pid = dead_pid()
    path = rwlock(tmp_path, model=pid)
    assert clear_dvc_lock.clear_rwlock(tmp_path) == [f"removed the lock that dead process {pid} (repro) had left"]
    assert not path.exists()


@linux
def test_lock_of_a_zombie_is_removed(tmp_path: Path) -> None:
    zombie = subprocess.Popen(["true"])
    wait_until(lambda: not processes.alive(zombie.pid))
    assert (processes.PROC / str(zombie.pid)).exists()
    path = rwlock(tmp_path, model=zombie.pid)
    assert len(clear_dvc_lock.clear_rwlock(tmp_path)) == 1
    assert not path.exists()
    zombie.wait()


@linux
def test_lock_of_a_reused_process_id_is_removed(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    path = rwlock(tmp_path, model=sleeper.pid)
    os.utime(path, (time.time() - 3600,) * 2)  # created long before that process started
    assert len(clear_dvc_lock.clear_rwlock(tmp_path)) == 1


@linux
def test_lock_of_a_living_process_is_kept(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    path = rwlock(tmp_path, mine=sleeper.pid, theirs=dead_pid())
    assert len(clear_dvc_lock.clear_rwlock(tmp_path)) == 1
    assert list(json.loads(path.read_text())["write"]) == ["mine"]
    assert list(json.loads(path.read_text())["read"]) == ["mine"]
    assert clear_dvc_lock.clear_rwlock(tmp_path) == []


@linux
def test_half_written_lock_is_removed(tmp_path: Path) -> None:
    path = rwlock(tmp_path)
    path.write_text('{"write": {"/mod')
    assert len(clear_dvc_lock.clear_rwlock(tmp_path)) == 1
    assert not path.exists()


@linux
def test_lock_that_dvc_is_writing_is_not_removed(tmp_path: Path) -> None:
    path = rwlock(tmp_path, model=dead_pid())
    with path.with_name("rwlock.lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        assert clear_dvc_lock.clear_rwlock(tmp_path) == []
    assert path.exists()


def test_without_a_lock_nothing_is_reported(tmp_path: Path) -> None:
    assert clear_dvc_lock.clear_rwlock(tmp_path) == []


def stage(root: Path, **options: object) -> subprocess.Popen[bytes]:
    """Start a process like a stage of DVC, with a child process."""
    variables = os.environ | {"DVC_ROOT": str(root), "DVC_STAGE": "finetune@msrvtt_ret"}
    return subprocess.Popen(["sh", "-c", "sleep 300 & wait"], env=variables, **options)  # type: ignore[call-overload]


@linux
def test_stage_whose_dvc_was_killed_is_ended_with_its_children(tmp_path: Path) -> None:
    orphan = stage(tmp_path)
    wait_until(lambda: processes.descendants(orphan.pid))
    below = processes.descendants(orphan.pid)
    assert clear_dvc_lock.stop_abandoned(tmp_path) == [
        f"stopped stage finetune@msrvtt_ret (process {orphan.pid}), which an interrupted run had left behind"
    ]
    assert not any(processes.alive(pid) for pid in [orphan.pid, *below])
    orphan.wait()


@linux
def test_stage_of_a_living_dvc_or_another_checkout_is_not_ended(tmp_path: Path) -> None:
    dvc = tmp_path / "dvc"
    dvc.write_text("#!/bin/sh\nDVC_ROOT=$1 DVC_STAGE=pretrain sleep 300 &\nwait\n")
    dvc.chmod(0o755)
    parent = subprocess.Popen([str(dvc), str(tmp_path / "a")])
    other = stage(tmp_path / "b")
    try:
        wait_until(lambda: processes.descendants(parent.pid) and processes.descendants(other.pid))
        assert clear_dvc_lock.abandoned(tmp_path / "a") == {}
        assert list(clear_dvc_lock.abandoned(tmp_path / "b")) == [other.pid]
    finally:
        processes.stop([parent.pid, other.pid])
        parent.wait()
        other.wait()


def hold(folder: Path, *command: str, **options: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-E", "-S", str(TOOLS / "under_lock.py"), "repro", *command]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]


@linux
def test_second_run_fails_and_names_the_holder(tmp_path: Path) -> None:
    first = hold(tmp_path, "sh", "-c", "echo up; sleep 300")
    assert first.stdout is not None
    assert first.stdout.readline() == "up\n"
    second = hold(tmp_path, "true")
    _, errors = second.communicate()
    assert second.returncode == 3
    assert f"process {first.pid}" in errors and f"kill {first.pid}" in errors
    first.send_signal(signal.SIGTERM)
    first.communicate()
    assert first.returncode == 128 + signal.SIGTERM
    third = hold(tmp_path, "true")
    third.communicate()
    assert third.returncode == 0


@linux
def test_exit_code_of_the_command_is_returned(tmp_path: Path) -> None:
    child = hold(tmp_path, "sh", "-c", "exit 7")
    child.communicate()
    assert child.returncode == 7


@linux
def test_stopped_run_leaves_no_process(tmp_path: Path) -> None:
    child = hold(tmp_path, "sh", "-c", "setsid sh -c 'sleep 299 & sleep 300' & echo up; wait")
    assert child.stdout is not None
    child.stdout.readline()
    wait_until(lambda: len(processes.descendants(child.pid)) >= 4)
    below = processes.descendants(child.pid)
    child.send_signal(signal.SIGTERM)
    child.communicate()
    assert not any(processes.alive(pid) for pid in below)


@linux
def test_zombies_are_reaped_while_the_command_runs(tmp_path: Path) -> None:
    child = hold(tmp_path, "sh", "-c", "for n in 1 2 3; do sh -c 'sleep 0.1 & echo $!'; done; sleep 300")
    assert child.stdout is not None
    orphans = {int(child.stdout.readline()) for _ in range(3)}
    wait_until(lambda: not orphans & set(processes.pids()))
    child.send_signal(signal.SIGTERM)
    child.communicate()
    assert child.returncode == 128 + signal.SIGTERM


@linux
def test_processes_of_a_killed_run_are_stopped_by_the_next(tmp_path: Path) -> None:
    stubborn = "trap '' TERM; echo up; while true; do sleep 0.1; done"
    first = hold(tmp_path, "sh", "-c", stubborn)
    assert first.stdout is not None
    first.stdout.readline()
    (left,) = [pid for pid in processes.descendants(first.pid) if "echo up" in " ".join(processes.command(pid))]
    first.kill()
    first.wait()
    assert processes.alive(left)
    second = hold(tmp_path, "true")
    _, message = second.communicate()
    assert second.returncode == 0
    assert "that a killed run had left behind" in message
    assert not processes.alive(left)
    first.stdout.close()


@linux
def test_command_ends_when_the_lock_holder_is_killed(tmp_path: Path) -> None:
    child = hold(tmp_path, "sleep", "300")
    wait_until(lambda: [p for p in processes.descendants(child.pid) if processes.command(p)[:1] == ["sleep"]])
    below = processes.descendants(child.pid)
    child.kill()
    child.communicate()
    wait_until(lambda: not any(processes.alive(pid) for pid in below), 5)


# --- a user's files in stage outputs --------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A user's file inside a stage's output, as DVC reports it."""
    (tmp_path / "models" / "text").mkdir(parents=True)
    mine = tmp_path / "models" / "text" / "mine.txt"
    mine.write_text("mine")
    return mine


def prepare(output: Path, choice: str) -> int:
    """Start `make repro` with EDITED=`choice`."""
    return stray_files.prepare_repro(output.parents[2], choice, lambda: ["models/text/mine.txt"])


def test_stray_file_stops_the_run_and_is_reported(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = output.parents[2]
    assert prepare(output, "") == 1
    errors = capsys.readouterr().err
    assert "models/text/mine.txt" in errors and "EDITED=keep" in errors and "EDITED=discard" in errors
    assert output.exists()
    assert not (root / stray_files.UNFINISHED).exists()


@pytest.mark.parametrize("choice", ["keep", ""])
def test_stray_file_is_moved_on_keep_or_after_a_failed_run(output: Path, choice: str) -> None:
    root = output.parents[2]
    if not choice:
        (root / ".make").mkdir()
        (root / stray_files.UNFINISHED).touch()
    assert prepare(output, choice) == 0
    assert not output.exists()
    assert [path.read_text() for path in (root / ".state/kept").rglob("mine.txt")] == ["mine"]
    assert (root / stray_files.UNFINISHED).exists()


def test_stray_file_is_left_to_dvc_on_discard(output: Path) -> None:
    assert prepare(output, "discard") == 0


def test_misspelt_choice_is_refused(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(output, "kep") == 1
    assert "use keep or discard" in capsys.readouterr().err


# --- make ui ------------------------------------------------------------------------------------------------


@pytest.fixture
def signals() -> Iterator[None]:
    """Restore the signal handlers, which the tested program changes in this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("variable", ["PREFECT_PORT", "MLFLOW_PORT"])
@pytest.mark.usefixtures("signals")
def test_port_in_use_is_reported_in_one_line(
    variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("PREFECT_PORT", str(free.getsockname()[1]))
        monkeypatch.setenv(variable, str(taken.getsockname()[1]))
        free.close()
        assert make_ui.main() == 1
        port = taken.getsockname()[1]
    errors = capsys.readouterr().err
    assert errors.startswith(f"ui: port {port} cannot be used") and f"make ui {variable}={port + 1}" in errors


@pytest.mark.usefixtures("signals")
def test_invalid_port_is_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_PORT", "http")
    assert make_ui.main() == 1
    assert capsys.readouterr().err == "ui: PREFECT_PORT=http is not a port number; use one from 1 to 65535\n"


def test_mlflow_requires_a_password_if_auth_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_AUTH_CONFIG_PATH", raising=False)
    plain = make_ui.mlflow_server(5000, "sqlite:///a.db")
    assert plain[:3] == ["server", "--host", "127.0.0.1"] and "--app-name" not in plain
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", "auth.ini")
    assert make_ui.mlflow_server(5000, "sqlite:///a.db") == [*plain, "--app-name", "basic-auth"]


def test_one_failed_server_stops_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stays.py").write_text("import time; time.sleep(1000)")
    (tmp_path / "fails.py").write_text("raise SystemExit(3)")
    servers = make_ui.Servers(tmp_path, {"PYTHONPATH": str(tmp_path)})
    try:
        servers.start("first", "stays")
        servers.start("second", "fails")
        with pytest.raises(make_ui.UiError, match=r"second ended with code 3; see its log .*second\.log"):
            servers.wait_for("http://127.0.0.1:9/health")
    finally:
        servers.stop()
    assert servers.running["first"].poll() is not None
