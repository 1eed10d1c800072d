"""The launcher starts one process for each GPU, or two without any; more processes than GPUs are refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from alpro import distributed
from alpro.checks import machine
from alpro.cli.main import app
from alpro.config import Launch, load
from alpro.errors import LaunchError
from alpro.launch import run
from alpro.planning import tables as plan
from alpro.system import gpus

ROOT = Path(__file__).parents[2]

LISTED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)
  MIG 1g.10gb Device 0: (UUID: MIG-1)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)
"""


@pytest.fixture(autouse=True)
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without GPUs, with a torch that supports them."""
    monkeypatch.setattr(metadata, "version", lambda name: "2.13.0")
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "driver")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus._installed.cache_clear()
    yield
    gpus._installed.cache_clear()


@pytest.fixture
def two_cards(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n/bin/cat <<END\n{LISTED}END\n")
    (tmp_path / "nvidia-smi").chmod(0o755)


def test_memory_is_that_of_the_smallest_gpu(tmp_path: Path) -> None:
    assert gpus.memory_bytes() is None
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 81559; echo 40960\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert gpus.memory_bytes() == 40960 * 2**20


def test_one_process_per_gpu_is_started_or_two_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Launch(processes=None).world_size == 2
    for number in (1, 8):
        monkeypatch.setattr(gpus, "count", lambda number=number: number)
        assert Launch(processes=None).world_size == number
        assert Launch(processes=3).world_size == 3


def test_single_gpu_runs_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "count", lambda: 1)
    assert run.in_this_process(Launch(processes=None))
    monkeypatch.setattr(run, "run_world", lambda *_: pytest.fail("it started further processes"))
    params = yaml.safe_load((ROOT / "recipes/tiny.yaml").read_text())
    params["launch"]["processes"] = None
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    threads = torch.get_num_threads()
    monkeypatch.setattr(os, "environ", dict(os.environ))  # `launch` sets the number of threads
    result = CliRunner().invoke(app, ["launch", "--params", str(tmp_path / "params.yaml"), "--", "recipe", "list"])
    torch.set_num_threads(threads)
    assert result.exit_code == 0 and "tiny" in result.output
    monkeypatch.setattr(gpus, "count", lambda: 2)
    assert not run.in_this_process(Launch(processes=None))


def test_plan_and_doctor_count_the_same_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(gpus, "count", lambda: 4)
    monkeypatch.setattr(plan, "plan_trainings", lambda params, number, device: seen.append(number) or [])
    monkeypatch.setattr(plan, "data_bytes", lambda params: {})
    plan.print_plan(load(ROOT / "recipes/sample.yaml"), None, "h100", None, None, as_json=True)
    assert seen == [4]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check = machine.check_torch(ROOT)
    assert check.status == "warn" and "finds 0 GPUs, the driver 4" in check.detail
    monkeypatch.setattr(gpus, "count", lambda: 0)
    assert machine.check_torch(ROOT).detail.endswith("launch.processes=null starts 2")


@pytest.mark.usefixtures("two_cards")
@pytest.mark.parametrize(
    ("chosen", "number"),
    [(None, 2), ("0,1", 2), ("1", 1), ("", 0), ("-1", 0), ("0,-1,1", 1), ("GPU-2", 1), ("0, 1", 2), ("0,7", 1)],
)
def test_gpus_are_counted_by_driver_and_cuda_visible_devices(
    chosen: str | None, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert gpus.count() == number


def test_kernel_lists_the_gpus_if_nvidia_smi_is_missing(tmp_path: Path) -> None:
    for card in ("0000:17:00.0", "0000:65:00.0", "0000:ca:00.0"):
        (tmp_path / "driver" / card).mkdir(parents=True)
    assert gpus.count() == 3


@pytest.mark.usefixtures("two_cards")
def test_cpu_build_of_torch_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2.13.0+cpu")
    assert gpus.count() == 0


def test_launcher_counts_the_same_gpus_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    gpus._installed.cache_clear()
    assert gpus.count() == torch.cuda.device_count()


@pytest.mark.parametrize("setting", [{"hosts": "one:4"}, {"min_processes": 2, "discovery": "hosts.sh"}])
def test_several_hosts_need_a_number_of_processes(setting: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"needs launch\.processes, the number of processes on all hosts"):
        Launch(processes=None, **setting)  # type: ignore[arg-type]


def test_more_processes_than_gpus_on_a_host_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, number in (("SIZE", "4"), ("LOCAL_RANK", "1"), ("LOCAL_SIZE", "2")):
        monkeypatch.setenv(f"HOROVOD_{name}", number)
    assert distributed.device() == torch.device("cuda", 1)
    monkeypatch.setenv("HOROVOD_LOCAL_SIZE", "3")
    with pytest.raises(
        LaunchError, match=r"^3 processes on .*, which has 2 GPUs, but each process needs one; start fewer[^\n]*$"
    ):
        distributed.device()


def test_slurms_processes_that_see_one_gpu_each_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    step = {"SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "4"}
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    for number, expected in ((1, 0), (4, 3)):  # `--gpus-per-task=1`, or all GPUs of the node for each process
        monkeypatch.setattr(torch.cuda, "device_count", lambda number=number: number)
        assert distributed.device() == torch.device("cuda", expected)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(LaunchError, match=r"4 processes on .*, which has 2 GPUs"):
        distributed.device()
