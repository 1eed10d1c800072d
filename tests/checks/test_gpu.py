"""`alpro check gpu` on a CPU: its processes and limits, its counts, and that planted faults are found by the right step."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alpro.checks.gpu import all_steps, costs, run
from alpro.checks.gpu.counting import DEVICE, PretendedGPU
from alpro.checks.gpu.made import TRAININGS
from alpro.checks.gpu.process import run_apart
from alpro.checks.gpu.run import Options, check_gpu
from alpro.checks.gpu.steps import Context, Step, run_step
from alpro.checks.gpu.wheels import put_on_path
from alpro.errors import ConfigError
from alpro.models import bert, encoders
from alpro.training import engine, randomness
from alpro.training.log import LossWindow

ROOT = Path(__file__).parents[2]
STEPS = {step.name: step for step in all_steps.STEPS}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(True, tmp_path, ROOT)


# --- counting on a pretended GPU --------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAININGS)
def test_host_never_waits_for_the_gpu_in_a_step_and_nothing_is_kept(name: str) -> None:
    found = costs.step_costs(name)
    assert found.places == {} and found.grown == 0
    assert found.operations > 500 and 20_000 < found.copied < 30_000  # the batch


@pytest.mark.parametrize(
    ("wait", "reason"),
    [
        (lambda x: x.sum().item(), "value read"),
        (lambda x: bool((x > 0).all()), "value read"),
        (lambda x: x.tolist(), "read on the host"),
        (lambda x: x.cpu(), "read on the host"),
        (lambda x: x.to("cpu"), "read on the host"),
        (lambda x: x.nonzero(), "shape read"),
        (lambda x: x[x > 0], "indexing with a mask"),
        (lambda x: x[torch.tensor([0, 1])], "index copied"),
        (lambda x: torch.tensor([1.0, 2.0], device=x.device), "blocking copy"),
        (lambda x: x.new_tensor([1.0, 2.0]), "blocking copy"),
        (lambda x: torch.ones(3).to(x.device), "blocking copy"),
        (lambda x: torch.multinomial(x.abs()[None], 1), "value read"),
    ],
)
def test_each_kind_of_synchronisation_is_counted_with_its_line(wait: Callable[[Any], object], reason: str) -> None:
    with PretendedGPU() as gpu:
        x = torch.ones(4).to(DEVICE, non_blocking=True)
        assert x.device == DEVICE and x.is_cuda and gpu.counts.synchronisations == 0
        wait(x)
    assert gpu.counts.synchronisations == 1
    assert reason in (place := next(iter(gpu.counts.places))) and place.startswith("test_gpu.py:")


def test_operations_that_need_no_waiting_are_not_counted_as_such() -> None:
    with PretendedGPU() as gpu:
        x = torch.arange(12.0, device=DEVICE).view(3, 4).requires_grad_()
        y = (x[torch.arange(2, device=DEVICE)] * 2 + torch.zeros((), device=DEVICE)).sum()
        y.backward()
        assert x.grad is not None and x.grad.device == DEVICE
        copy = y.detach().to("cpu", non_blocking=True)
    assert gpu.counts.synchronisations == 0 and copy.device.type == "cpu" and copy.item() == 56
    assert gpu.counts.copied == 4


def test_mixing_tensors_of_both_devices_is_an_error_as_on_a_gpu() -> None:
    with PretendedGPU(), pytest.raises(RuntimeError, match="tensors of the host and of the device in one operation"):
        torch.ones(3, device=DEVICE) + torch.ones(3)


# --- planted faults -----------------------------------------------------------------------------------------

# Steps that take seconds on a CPU and that a fault of the models, the engine or the optimizer could reach.
WATCHING = (
    "parity fp32", "parity bf16", "gradients", "half precision", "GradScaler", "checkpointing", "attention", "optimizer",
    "deterministic", "kill and resume", "synchronisations", "leaks",
)  # fmt: skip


def wrong_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding is not masked under bf16."""
    masked = bert.additive

    def unmasked(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        return masked(torch.ones_like(mask) if half else mask, dtype)

    monkeypatch.setattr(bert, "additive", unmasked)


def hidden_synchronisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward pass looks at a value."""
    feature = encoders.Alpro.text_feature

    def looking(self: Any, text: torch.Tensor) -> torch.Tensor:
        assert text[:, 0].detach().float().abs().max().item() >= 0
        return feature(self, text)

    monkeypatch.setattr(encoders.Alpro, "text_feature", looking)
    encode = encoders.Alpro.encode_video

    def looking_at_video(self: Any, *args: Any, **options: Any) -> torch.Tensor:
        video = encode(self, *args, **options)
        assert video.shape and not bool(video.detach().isnan().all())
        return video

    monkeypatch.setattr(encoders.Alpro, "encode_video", looking_at_video)


def leaked_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log keeps each step's losses."""
    kept: list[torch.Tensor] = []
    add = LossWindow.add

    def keeping(self: LossWindow, losses: torch.Tensor) -> None:
        kept.append(losses.clone())
        add(self, losses)

    monkeypatch.setattr(LossWindow, "add", keeping)


def wrong_seed_after_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed training draws other numbers."""
    monkeypatch.setattr(randomness, "restore", lambda state: randomness.seed_everything("another seed"))


def seed_from_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training draws other numbers."""
    seed = randomness.seed_everything
    monkeypatch.setattr(engine.randomness, "seed_everything", lambda *key: seed(*key, time.perf_counter_ns()))


FAULTS: dict[Callable[[pytest.MonkeyPatch], None], set[str]] = {
    wrong_mask: {"parity bf16"},
    hidden_synchronisation: {"synchronisations"},
    leaked_tensor: {"leaks"},
    wrong_seed_after_a_resume: {"kill and resume"},
    seed_from_the_clock: {"deterministic", "kill and resume"},
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*FAULTS, None], ids=lambda fault: fault.__name__ if fault else "none")
def test_each_planted_fault_fails_the_step_that_should_find_it_and_no_other(
    fault: Callable[[pytest.MonkeyPatch], None] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault is not None:
        fault(monkeypatch)
    outcomes = {}
    for name in WATCHING:
        (tmp_path / name).mkdir()
        outcomes[name] = run_step(STEPS[name], Context(True, tmp_path / name, ROOT))
    failed = {name for name, (status, _, _) in outcomes.items() if status != "passed"}
    assert failed == (FAULTS[fault] if fault else set()), {name: outcomes[name][:2] for name in failed}
    assert all(figures for _, _, figures in outcomes.values())


# --- processes, limits, results -----------------------------------------------------------------------------


def test_step_is_killed_at_its_limit_with_the_processes_it_started(context: Context) -> None:
    def waits(given: Context) -> dict[str, Any]:
        child = subprocess.Popen(["sleep", "60"])
        (given.work / "child").write_text(str(child.pid))
        time.sleep(60)
        return {}

    began_s = time.monotonic()
    result = run_apart(Step("waits", waits, 60), context, 1.0)
    assert result.status == "failed" and result.detail == "killed after its limit of 1 s" and time.monotonic() - began_s < 20
    child = Path("/proc", (context.work / "child").read_text(), "cmdline")
    for _ in range(100):
        if not child.exists() or not child.read_bytes():
            return
        time.sleep(0.05)
    raise AssertionError("the step's child is still running")


def test_process_that_dies_is_a_failed_step_with_its_last_words(context: Context) -> None:
    def dies(given: Context) -> dict[str, Any]:
        import os

        print("no memory left", flush=True)
        os._exit(3)

    result = run_apart(Step("dies", dies, 60), context, 30)
    assert (result.status, result.detail) == ("failed", "its process died: no memory left")


def test_exception_is_a_failed_step_and_the_check_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(given: Context) -> dict[str, Any]:
        raise ValueError("not a number")

    steps = (Step("broken", broken, 9), Step("CUDA only", broken, 9, needs="cuda"), Step("sum", lambda given: {"sum": 2}, 9))
    monkeypatch.setattr(all_steps, "STEPS", steps)
    check_gpu(Options(small=True, output=tmp_path / "out.json"))
    written = json.loads((tmp_path / "out.json").read_text())
    rows = [(step["name"], step["status"], step["detail"], step["figures"]) for step in written["steps"]]
    assert rows == [
        ("broken", "failed", "ValueError: not a number", {}),
        ("CUDA only", "skipped", "needs CUDA", {}),
        ("sum", "passed", "", {"sum": 2}),
    ]
    assert written["setting"]["small"] and written["verdict"].startswith("1 passed, 1 skipped, 1 failed")


def test_fault_in_a_loaders_process_is_named_by_its_own_last_line(context: Context) -> None:
    def reads(given: Context) -> dict[str, Any]:
        raise TypeError(
            "Caught TypeError in DataLoader worker process 0.\nOriginal Traceback:\n  File ...\nTypeError: no such frame"
        )

    assert run_step(Step("reads", reads, 9), context) == ("failed", "TypeError: no such frame", {})


def test_no_step_starts_after_the_time_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def slow(given: Context) -> dict[str, Any]:
        time.sleep(30)
        return {}

    monkeypatch.setattr(all_steps, "STEPS", (Step("slow", slow, 60), Step("late", slow, 60)))
    first, second = check_gpu(Options(small=True, output=tmp_path / "out.json", minutes=0.03))
    assert first.status == "failed" and "killed after its limit" in first.detail
    assert (second.status, second.detail) == ("skipped", "the 0.03 minutes are over")


def test_unknown_step_is_refused_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--only parety: no such step"):
        check_gpu(Options(small=True, output=tmp_path / "out.json", only=["parety"]))
    assert [step.name for step in run.chosen(all_steps.STEPS, ["parity"])] == ["parity fp32", "parity bf16"]


def test_unusable_wheels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no \.whl files"):
        put_on_path(tmp_path, tmp_path / "packages")
    (tmp_path / "av-18.0.0-cp27-cp27m-win32.whl").write_bytes(b"")
    with pytest.raises(ConfigError, match="no wheel fits this Python"):
        put_on_path(tmp_path, tmp_path / "packages")


def test_numbers_of_the_released_code_are_skipped_without_the_goldens(tmp_path: Path) -> None:
    status, detail, _ = run_step(STEPS["parity fp32"], Context(True, tmp_path, tmp_path))
    assert status == "skipped" and "copy the folder tests beside alpro" in detail


def test_missing_package_skips_the_step_that_needs_it(context: Context) -> None:
    def needs(given: Context) -> dict[str, Any]:
        import no_such_package_here

        return {"found": no_such_package_here.__name__}

    status, detail, _ = run_step(Step("needs", needs, 9), context)
    assert status == "skipped" and detail == "no_such_package_here is missing here; carry its wheel (--wheels)"


def test_steps_can_be_imported_without_what_a_bare_machine_lacks() -> None:
    """A machine without registries has torch, timm, transformers and what they need."""
    lacking = ("mlflow", "dvc", "prefect", "great_expectations", "horovod", "decord", "av", "psutil", "hydra", "matplotlib")
    code = f"import sys; sys.modules.update(dict.fromkeys({lacking!r})); import alpro.cli.main, alpro.checks.gpu.all_steps"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
