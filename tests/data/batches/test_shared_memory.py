"""Too little shared memory: refused before the workers start, and a worker that runs out of it ends the run with the reason."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alpro.data.batches import shared_memory
from alpro.errors import TrainingError

ROOT = Path(__file__).parents[3]
MB = 10**6


@pytest.mark.parametrize(
    ("free", "batch", "workers", "prefetch", "processes", "fits"),
    [
        (64 * MB, 10 * MB, 2, 2, 1, True),
        (64 * MB, 10 * MB, 4, 2, 1, False),
        (64 * MB, 10 * MB, 2, 2, 2, False),
        (49 * MB, 10 * MB, 2, 2, 1, False),
        (64 * MB, 40 * MB, 1, 1, 1, False),
        (0, 1, 1, 1, 1, False),
        (None, 10**12, 8, 8, 8, True),
    ],
)
def test_room_for_the_batches_of_all_processes_is_checked(
    monkeypatch: pytest.MonkeyPatch, free: int | None, batch: int, workers: int, prefetch: int, processes: int, fits: bool
) -> None:
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: free)
    monkeypatch.setenv("HOROVOD_SIZE", str(processes))
    monkeypatch.setenv("HOROVOD_LOCAL_SIZE", str(processes))
    if fits:
        shared_memory.check_room(batch, workers, prefetch)
        return
    with pytest.raises(
        TrainingError, match=r"/dev/shm has .* MB free, but loader.workers needs .*--shm-size=2g.*loader.workers: 0"
    ):
        shared_memory.check_room(batch, workers, prefetch)


class Unsendable:
    def __reduce__(self) -> str:
        raise RuntimeError("unable to write to file </torch_1>:\nNo space left on device (28)")


def test_process_that_cannot_hand_over_its_result_ends_with_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    context, failures = multiprocessing.get_context("fork"), shared_memory.FailurePipe()
    queue = context.Queue()

    def work() -> None:
        failures.end_worker_on_failure()
        queue.put(Unsendable())
        time.sleep(60)

    assert failures.reason() == ""
    worker = context.Process(target=work)
    worker.start()
    worker.join(20)
    assert worker.exitcode == shared_memory.EXIT_CODE
    reason = "RuntimeError: unable to write to file </torch_1>: No space left on device (28)"
    assert failures.reason() == reason and f"alpro: loader worker: {reason}" in capfd.readouterr().err
    failures.close()


CODE = """
import sys, time, torch
from alpro.data.batches import loader, shared_memory
if sys.argv[1] == "unchecked":
    loader.check_room = lambda *a: None
class View:
    clip_bytes = 3 * 2**20
class Set:
    view = View()
    def __getitem__(self, key):
        return torch.zeros(View.clip_bytes, dtype=torch.uint8)
began_s = time.monotonic()
try:
    for batch in loader._read_ahead({"a": Set()}, iter([[("a", 0, 0)]] * 20), torch.stack, 2, 2):
        print("a batch")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
print(f"{time.monotonic() - began_s:.1f} s")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("checked", "TrainingError: /dev/shm has 1.0 MB free, but loader.workers needs 15.7 MB"),
        ("unchecked", "_WorkerDied: a worker process could not hand over a batch (RuntimeError: unable to"),
    ],
)
def test_full_shared_memory_ends_the_reading_within_seconds(how: str, message: str) -> None:
    apart = ["unshare", "-m"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"]).returncode:
        pytest.skip("needs the right to mount file systems")
    shell = f'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec {sys.executable} -c "$1" {how}'
    run = subprocess.run([*apart, "sh", "-c", shell, "sh", CODE], cwd=ROOT, capture_output=True, text=True, timeout=120)
    *_, found, took = run.stdout.splitlines()
    assert message in found and "--shm-size" in found and "loader.workers: 0" in found, run.stdout + run.stderr
    assert float(took.split()[0]) < 30
