"""A lock has one holder at a time, which errors name. It is free once the holder dies, even if its children live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import file_lock
import pytest

from alpro.errors import DataError
from alpro.files.locks import Lock, LockHeld, holder_of, lock_in, take_lock
from tests.training.processes import ROOT

CHILDREN = {
    "forked": "child = os.fork()\nif not child: time.sleep(60); os._exit(0)",
    "executed": "child = subprocess.Popen(['sleep', '60'], close_fds=False).pid",
    "multiprocessing": "process = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))\n"
    "process.start()\nchild = process.pid",
}
HOLDER = """
import multiprocessing, os, subprocess, sys, time
from pathlib import Path
from alpro.files.locks import Lock
lock = Lock(Path(sys.argv[1]))
{child}
print(child, flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def holder(path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that holds the lock and has a child, with the child's number."""
    command = [sys.executable, "-c", HOLDER.format(child=CHILDREN[request.param]), str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    yield process, child
    process.kill()
    process.wait()
    process.stdout.close()
    os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("holder", CHILDREN, indirect=True)
def test_killed_holder_frees_the_lock_while_its_child_lives(holder: tuple[subprocess.Popen[str], int], path: Path) -> None:
    process, child = holder
    with pytest.raises(LockHeld, match=rf"^process {process.pid} on .*, since \d{{4}}-"):
        Lock(path)
    process.kill()
    process.wait()
    os.kill(child, 0)
    Lock(path, wait_s=10).release()  # a newly forked child first has to close its copy


def test_second_holder_is_refused_with_the_first_holders_name(path: Path) -> None:
    with Lock(path), pytest.raises(DataError) as refused:
        take_lock(path, "a fetch", DataError)
    assert str(refused.value).startswith(f"{path}: a fetch is already running (process {os.getpid()} on ")
    assert "\n" not in str(refused.value)
    assert not path.exists()
    take_lock(path, "a fetch", DataError).release()


def test_waiting_holder_gets_the_lock_when_it_is_released(path: Path) -> None:
    lock = Lock(path)
    timer = threading.Timer(0.3, lock.release)
    timer.start()
    start_s = time.monotonic()
    Lock(path, wait_s=20).release()
    assert 0.2 < time.monotonic() - start_s < 10


def test_lock_is_exclusive_among_many_processes(path: Path) -> None:
    """Every release removes the file, so a lock on a removed file would admit two processes."""
    inside = path.with_name("inside")
    code = (
        "import os, sys, pathlib\n"
        "from alpro.files.locks import Lock\n"
        "for _ in range(200):\n"
        f"    with Lock(pathlib.Path({str(path)!r}), wait_s=60):\n"
        f"        os.close(os.open({str(inside)!r}, os.O_CREAT | os.O_EXCL))\n"
        f"        os.unlink({str(inside)!r})\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]


def test_lock_and_tools_lock_exclude_each_other(path: Path) -> None:
    with Lock(path, "12 now"), pytest.raises(file_lock.LockHeld, match="process 12, since now"):
        file_lock.acquire(path)
    with file_lock.acquire(path) as file:
        file_lock.write_holder(file)
        with pytest.raises(LockHeld, match=f"^{os.getpid()} "):
            Lock(path)
    Lock(path).release()


def test_tools_lock_is_reacquired_if_its_file_was_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, attempts = file_lock.fcntl.flock, []

    def remove_first(file: object, operation: int) -> None:
        if not attempts:
            path.unlink()
        attempts.append(operation)
        flock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(file_lock.fcntl, "flock", remove_first)
    with file_lock.acquire(path) as file:
        assert len(attempts) == 2 and os.path.samestat(os.fstat(file.fileno()), path.stat())


def test_holder_of_a_lock_and_the_lock_in_a_message_are_found(path: Path) -> None:
    assert holder_of(path) is None
    with Lock(path, "tidy-otter"):
        assert holder_of(path) == "tidy-otter"
        with pytest.raises(DataError) as refused:
            take_lock(path, "a training", DataError)
    assert lock_in(f"alpro: rank 0 (here, process 7): {refused.value}") == path
    assert lock_in("alpro: step 1: the loss is already running away") is None
    path.write_text("left by a killed process")
    assert holder_of(path) is None and not path.exists()
