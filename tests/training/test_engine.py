"""The engine on one process with a toy task: its numbers, its messages, and how it stops."""

from __future__ import annotations

import errno
import math
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alpro.checks.gpu.counting import DEVICE, PretendedGPU
from alpro.config import Model
from alpro.errors import ConfigError, TrainingError
from alpro.launch import heartbeat
from alpro.models import build_model
from alpro.models.heads import match_pairs
from alpro.training import checkpointer as checkpointer_module
from alpro.training.checkpointer import Checkpointer
from alpro.training.clipping import clip
from alpro.training.engine import Engine
from alpro.training.log import kept_names
from alpro.training.record import final_figures
from alpro.training.snapshots import SnapshotStore
from alpro.training.task import Best
from alpro.training.weights import trained_weights
from tests.training.processes import forked
from tests.training.toy import ToyBatch, ToyTask, gradients, same, settings, train


def test_training_is_reproducible() -> None:
    assert same(train(8, dropout=0.3), train(8, dropout=0.3))


def test_history_has_a_row_per_log_line_and_validation_without_times() -> None:
    history = train(9)["history"]
    assert [(row["step"], row["split"]) for row in history] == [
        (2, "train"), (3, "val"), (4, "train"), (6, "train"), (6, "val"), (8, "train"), (9, "train"), (9, "val"),
    ]  # fmt: skip
    assert set(history[0]) == {"step", "epoch", "split", "loss", "contrast", "items", "lr", "grad_norm"}
    assert history[0]["loss"] == pytest.approx(history[0]["contrast"] + 0.5 * history[0]["items"])


def test_skipped_samples_are_logged_and_limited() -> None:
    done = train(8, unreadable=1, allowed=0.6)
    assert [row["left_out"] for row in done["history"] if row["split"] == "train"] == [1, 1, 1, 1]
    assert final_figures(done["history"], Best(8, 0.0, {}))["train"]["left_out"] == 1
    with pytest.raises(TrainingError, match="1 of 2 could not be read"):
        train(8, unreadable=1, allowed=0.4)


def test_validation_does_not_change_the_trainings_random_draws() -> None:
    often, seldom = (train(8, dropout=0.3, changes={"validations": n})["history"] for n in (8, 1))
    assert [row for row in often if row["split"] == "train"] == [row for row in seldom if row["split"] == "train"]


def test_model_ends_with_the_weights_of_the_best_validation() -> None:
    largest, smallest = (train(8, changes={"validations": 8, "select_by": by}) for by in ("score", "-score"))
    scores = [row["score"] for row in largest["history"] if row["split"] == "val"]
    assert largest["best"][1] == max(scores) and smallest["best"][1] == min(scores)
    assert abs(largest["weights"]["left.weight"].sum().item()) == pytest.approx(max(scores))
    assert abs(smallest["weights"]["left.weight"].sum().item()) == pytest.approx(min(scores))


def test_accumulation_takes_the_mean_of_micro_steps_or_their_sum() -> None:
    one, mean, sum_ = (gradients(changes={"accumulation": 2, "accumulate": how}) for how in ("mean", "mean", "sum"))
    assert same(one, mean)
    assert torch.equal(mean["losses"], sum_["losses"])  # the logged loss is the mean in both cases
    for name, gradient in mean["gradients"].items():
        if gradient is not None:
            torch.testing.assert_close(sum_["gradients"][name], 2 * gradient)


def test_unused_and_frozen_parameters_do_not_change() -> None:
    weights, before = train(4)["weights"], ToyTask(1).model.state_dict()
    for name in ("unused.weight", "frozen.weight", "frozen.bias"):
        assert torch.equal(weights[name], before[name])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_keeps_weights_and_state_in_fp32(precision: str) -> None:
    result = train(6, changes={"precision": precision})
    assert all(tensor.dtype == torch.float32 for tensor in result["weights"].values())
    full = train(6)
    for row, exact in zip(result["history"], full["history"], strict=True):
        if row["split"] == "train":
            assert row["loss"] == pytest.approx(exact["loss"], rel=0.05)


def test_fp16_reduces_its_scale_if_gradients_overflow() -> None:
    engine = Engine(ToyTask(30), settings(precision="fp16", validations=1), seed=1)
    engine.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    before = engine.model.head.weight.clone()
    engine.run()
    assert engine.scaler.get_scale() < 2.0**24
    assert not torch.equal(before, engine.model.head.weight)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_non_finite_values_stop_with_step_batch_and_last_good_state(tmp_path: Path, value: str) -> None:
    with pytest.raises(TrainingError) as stopped:
        train(8, state=str(tmp_path), bad_step=5, bad_value=value, sleep_s=0.002, changes={"save_every_s": 0.001})
    line = str(stopped.value)
    assert "step 5" in line and "toy/0, toy/1" in line and "\n" not in line
    assert f"{tmp_path}/step-00000000" in line


def test_unknown_metric_is_refused_before_the_first_step() -> None:
    with pytest.raises(ConfigError, match="no such metric; did you mean 'score'"):
        train(4, changes={"select_by": "-scor"})


def test_full_disk_stops_with_one_line_and_keeps_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(8, dropout=0.3)
    save, calls = SnapshotStore.save, []

    def refuse(self: SnapshotStore, state: dict[str, Any], **groups: Any) -> Path:
        calls.append(state["step"])
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(self, state, **groups)

    with monkeypatch.context() as patch:
        patch.setattr(SnapshotStore, "save", refuse)
        with pytest.raises(TrainingError, match=r"resume state could not be written.*No space left on device"):
            train(8, state=str(tmp_path), dropout=0.3, changes={"save_every_s": 1e-6})
    assert same(train(8, state=str(tmp_path), dropout=0.3), whole)  # there is free space again


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_training_stops_on_a_full_disk_and_resumes_with_free_space(small_disk: Path) -> None:
    options: dict[str, Any] = {"dropout": 0.3, "ballast": 500_000}  # snapshots of 2 MB
    whole = train(12, **options)
    options |= {"state": str(small_disk / "state"), "changes": {"save_every_s": 1e-6}}
    with pytest.raises(TrainingError) as stopped:
        train(12, fill_step=7, fill=str(small_disk / "filler"), **options)
    assert "could not be written" in str(stopped.value) and "\n" not in str(stopped.value)
    assert not list((small_disk / "state").glob(".*"))  # no partial file remains
    store = SnapshotStore(small_disk / "state", say=pytest.fail)
    newest = store.newest()
    assert newest is not None and newest.state["step"] == 6 and len(newest.tensors("weights")["ballast"]) == 500_000
    store.close()
    (small_disk / "filler").unlink()
    assert same(train(12, **options), whole)


def test_training_survives_a_closed_log_pipe(tmp_path: Path) -> None:
    """Simulate `alpro train ... | head -1`."""
    reader, log = os.pipe()

    def work() -> None:
        os.close(reader)
        sys.stdout = open(log, "w", buffering=1)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = (tmp_path / "stderr").open("w", buffering=1)  # type: ignore[misc]
        train(40, show=True, sleep_s=0.02)
        print("done", file=sys.stderr)

    with forked(work) as child:
        os.close(log)
        with open(reader) as lines:
            assert "step 2/40" in lines.readline()
        _, status = os.waitpid(child, 0)
    errors = (tmp_path / "stderr").read_text()
    assert status == 0 and errors.count("the reader of the log is gone") == 1 and errors.endswith("done\n"), errors


@pytest.mark.parametrize("fault", ["full disk", "lost terminal"])
def test_training_survives_an_unwritable_log(tmp_path: Path, fault: str) -> None:
    """Simulate `alpro train ... > log` on a full disk, and a progress bar on a closed terminal."""
    terminal, log = pty.openpty() if fault == "lost terminal" else (None, os.open("/dev/full", os.O_WRONLY))

    def work() -> None:
        if terminal is not None:
            os.close(terminal)
        sys.stdout = open(log, "w", buffering=1)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = (tmp_path / "stderr").open("w", buffering=1)  # type: ignore[misc]
        train(40, show=True, sleep_s=0.02)
        sys.stdout.flush()
        print("done", file=sys.stderr)

    with forked(work) as child:
        os.close(log)
        if terminal is not None:
            seen = ""
            while "step 2/40" not in seen:
                seen += os.read(terminal, 1000).decode(errors="replace")
            assert "0/40" in seen  # the bar is shown
            os.close(terminal)
        _, status = os.waitpid(child, 0)
    errors = (tmp_path / "stderr").read_text()
    assert status == 0 and errors.count("the log cannot be written (") == 1 and errors.endswith("done\n"), errors
    assert "Traceback" not in errors


def test_weights_of_every_validation_and_of_the_last_step_can_be_kept(tmp_path: Path) -> None:
    options: dict[str, Any] = {"validations": 4, "save_every_s": 1e-6}
    task = ToyTask(8)
    store = SnapshotStore(tmp_path)
    engine = Engine(task, settings(keep=["best", "last", "every"], **options), seed=1, checkpointer=Checkpointer(store))
    best = engine.run()
    names = kept_names(engine.log.history, engine.settings.keep)
    assert names == ["step-000000002", "step-000000004", "step-000000006", "step-000000008", "last"]
    kept = {name: store.kept(name) for name in names}
    assert same(kept["last"].tensors("weights"), kept["step-000000008"].tensors("weights"))
    chosen = kept[f"step-{best.step:09d}"].tensors("weights")
    assert all(torch.equal(chosen[name], tensor) for name, tensor in trained_weights(task.model).items())
    store.close()
    last = train(8, changes={"keep": ["last"], **options})
    assert last["best"][0] == 8
    assert torch.equal(last["weights"]["head.weight"], kept["last"].tensors("weights")["head.weight"])


@pytest.fixture
def terminal() -> Iterator[None]:
    """Enable Ctrl-C as on a terminal; background processes of a script ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requested_stop_saves_a_state_that_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(heartbeat, "_stop", threading.Event())
    save, later_s = SnapshotStore.save, [0.0]

    def slow(self: SnapshotStore, state: dict[str, Any], **groups: Any) -> Path:
        later_s[0] += 60
        return save(self, state, **groups)

    with monkeypatch.context() as patch:
        patch.setattr(SnapshotStore, "save", slow)
        patch.setattr(checkpointer_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + later_s[0]))
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        with pytest.raises(TrainingError) as stopped:
            train(30, state=str(tmp_path), dropout=0.3, sleep_s=0.02, changes={"save_every_s": 0.03})
    assert later_s[0] >= 120  # one snapshot before the stop
    match = re.match(r"stopped at step (\d+) of 30 as requested; the last snapshot is (.*); run the same", str(stopped.value))
    assert match and int(match[1]) < 30 and match[2] == f"{tmp_path}/step-{int(match[1]):09d}"
    heartbeat._stop.clear()
    resumed = train(30, state=str(tmp_path), dropout=0.3)
    assert same(resumed, train(30, dropout=0.3))


@pytest.mark.usefixtures("terminal")
def test_second_ctrl_c_ends_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_stop", threading.Event())
    for after_s in (0.1, 0.3):
        threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        train(2, sleep_s=30)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_repeatedly_killed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "dropout": 0.3,
        "changes": {"save_every_s": 0.001, "validations": 12, "accumulation": 2, "precision": "bf16"},
    }
    whole = train(80, **options)
    generator = torch.Generator().manual_seed(11)
    out, kills = tmp_path / "out.pt", 0

    def work() -> None:
        torch.save(train(80, state=str(tmp_path / "state"), sleep_s=0.002, **options), tmp_path / "temporary.pt")
        os.replace(tmp_path / "temporary.pt", out)

    while not out.exists():
        with forked(work) as child:
            if kills < 20:
                time.sleep(0.02 + 0.25 * torch.rand((), generator=generator).item())
                os.kill(child, signal.SIGKILL)
                kills += 1
            os.waitpid(child, 0)
    assert kills >= 3
    assert same(torch.load(out), whole)


def test_logged_learning_rate_and_norm_are_the_applied_ones() -> None:
    row = train(4, changes={"log_every": 1, "warmup_ratio": 0.0, "learning_rate": 0.008})["history"][0]
    assert row["lr"] == pytest.approx(0.008 * 3 / 4)
    gradient = torch.cat([g.flatten() for g in gradients()["gradients"].values() if g is not None])
    assert row["grad_norm"] == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert math.isfinite(row["loss"])


def test_freed_memory_is_reused() -> None:
    """By default glibc maps 64 MB anew each time. With the engine's setting it reuses the heap after a few steps."""
    train(1)
    faults = []
    for _ in range(40):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16, 2**20)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    pages = 16 * 2**20 * 4 // os.sysconf("SC_PAGE_SIZE")
    assert sum(faults[-10:]) < pages


def test_gradients_are_clipped_only_above_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"weight_decay": 0}  # which also multiplies in place
    history = train(4, changes={"grad_clip": 1e3, "log_every": 1, **options})["history"]
    norms = [row["grad_norm"] for row in history if row["split"] == "train"]
    factors: list[float] = []
    multiply = torch._foreach_mul_

    def spy(tensors: list[torch.Tensor], factor: torch.Tensor) -> None:
        factors.append(factor.item())
        multiply(tensors, factor)

    monkeypatch.setattr(torch, "_foreach_mul_", spy)
    free = train(4, changes={"grad_clip": max(norms) * 1.01, **options})
    assert not factors
    held = train(4, changes={"grad_clip": min(norms) / 2, **options})
    assert len(factors) == 4 and max(factors) < 1 and not same(held, free)


def test_clipping_on_a_gpu_multiplies_by_one_below_the_norm_and_as_torch_does_above() -> None:
    gradient = torch.randn(1000)
    norm = gradient.norm()
    for largest in (norm.item() / 3, norm.item() * 3):
        ours, theirs = gradient.clone(), torch.nn.Parameter(torch.zeros(1000))
        theirs.grad = gradient.clone()
        with PretendedGPU():  # where the norm is not read
            there = ours.to(DEVICE, non_blocking=True)
            clip([there], norm.to(DEVICE, non_blocking=True), largest)
            ours = there.to("cpu")
        torch.nn.utils.clip_grads_with_norm_([theirs], largest, norm)
        assert torch.equal(ours, theirs.grad)


def test_bad_step_is_reported_by_its_own_number_and_batch_although_it_is_read_one_step_later() -> None:
    class Batches(ToyTask):
        def batch(self, step: int) -> ToyBatch:
            return replace(super().batch(step), ids=[f"of step {step + 1}"])

    engine = Engine(Batches(8, bad_step=5), settings(log_every=100, validations=1), seed=1)
    with pytest.raises(TrainingError, match=r"^step 5: loss or gradient is not finite .*batch of step 5\)"):
        engine.run()
    assert engine.step == 5  # the numbers were read while step 6 was computed


def test_two_threads_sum_vtm_gradients_in_a_fixed_order() -> None:
    """A clip is in several pairs. Without the engine's setting, threads add in any order: three of four times bits differ."""
    train(1)
    sizes = Model(
        width=128, heads=4, intermediate=512, vision_layers=1, text_layers=1, fusion_layers=2, embed_dim=32, dropout=0
    )
    model = build_model("retrieval", num_frames=1, config=sizes)
    g = torch.Generator().manual_seed(0)
    text, video = (torch.randn(4, tokens, sizes.width, generator=g, requires_grad=True) for tokens in (40, 197))
    texts, clips, labels = match_pairs(4, (torch.tensor([1, 1, 1, 0]), torch.tensor([2, 2, 3, 2])))

    def gradients_of_pairs() -> tuple[torch.Tensor, ...]:
        logits = model.match(text[texts], torch.ones(12, 40), video[clips])
        return torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), (text, video))

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, *others = (gradients_of_pairs() for _ in range(10))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
