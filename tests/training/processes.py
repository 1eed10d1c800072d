"""Processes for tests: forked children to kill, and worlds under the launcher."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from alpro.system import parent, place

ROOT = Path(__file__).parent.parent.parent
needs_horovod = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None, reason="Horovod is not installed here (`make setup` builds it)"
)

both_backends = pytest.mark.parametrize("backend", [pytest.param("horovod", marks=needs_horovod), "torch"])
# for the longest tests: backend torch only in `make test-all`
torch_slow = pytest.mark.parametrize(
    "backend", [pytest.param("horovod", marks=needs_horovod), pytest.param("torch", marks=pytest.mark.slow)]
)


def made_project(folder: Path, params: dict[str, Any]) -> None:
    """Make a folder with these parameters and the inputs of a training of recipe tiny."""
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for verb in (["sample"], ["vocabulary", "models/tiny/text"], ["entities", "models/tiny/entities"]):
        subprocess.run([sys.executable, "-m", "alpro", "data", *verb], cwd=folder, env=environment, check=True)


@contextmanager
def forked(job: Callable[[], object]) -> Iterator[int]:
    """Run a job in a forked child, which is killed at the end; a fork saves the import of torch."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            job()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


def forked_world(processes: int, job: Callable[[], object]) -> None:
    """Run a job in forked ranks of backend torch, which saves the start of `alpro launch` and the imports."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    def join(rank: int) -> None:
        place.forget()
        own = dict(zip(place.OF_TORCH, (rank, processes, rank, processes), strict=True))
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(content) for name, content in own.items()})
        job()

    with ExitStack() as children:  # which kills those that wait for one that has failed
        alive = [psutil.Process(children.enter_context(forked(partial(join, rank)))) for rank in range(processes)]
        while alive:
            gone, alive = psutil.wait_procs(alive, timeout=0.1)
            assert not any(rank.returncode for rank in gone), "a rank failed; its error is above"


def world(
    processes: int,
    command: Sequence[str],
    here: bool = False,
    output: int = subprocess.PIPE,
    stderr: int = subprocess.STDOUT,
    **options: float | str,
) -> subprocess.Popen[str]:
    """Start `alpro launch` with a Python command, `here` or in the project; stdout and stderr are combined by default."""
    settings = {"processes": processes, "start_timeout_s": 300, "stall_timeout_s": 300, **options}
    code = (
        "import sys\nfrom alpro.config import Launch\nfrom alpro.errors import LaunchError\n"
        "from alpro.launch.run import run_world\n"
        f"try: run_world(Launch(**{settings!r}), [sys.executable, *sys.argv[1:]])\n"
        "except LaunchError as error: print('LaunchError:', error); sys.exit(1)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "ALPRO_LIVE": "off"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *command], cwd=None if here else ROOT, env=environment, text=True,
        stdout=output, stderr=stderr,
        preexec_fn=lambda: parent.set_parent_death_signal(signal.SIGKILL),  # killing the test run also ends the world
    )  # fmt: skip


def ended(process: subprocess.Popen[str], fault_file: Path, within_s: float = 30) -> tuple[str, str]:
    """Wait for a world that must end soon after a rank creates the fault file; return stdout and stderr."""
    until_s = time.monotonic() + 600
    while not fault_file.exists():
        assert process.poll() is None and time.monotonic() < until_s, process.communicate()
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    output, errors = process.communicate(timeout=600)
    _, alive = psutil.wait_procs(family, timeout=5)
    took_s = time.time() - fault_file.stat().st_mtime
    assert process.returncode == 1 and not alive, errors
    print(f"ended {took_s:.1f} s after the fault")
    assert took_s < within_s
    return output, errors


def first_failure(errors: str) -> str:
    """Return the first line on stderr that reports a failure."""
    telling = re.compile(r"error|exception|traceback|fail|fault|exit|abort|kill|ended|not finite", re.IGNORECASE)
    return next(line for line in errors.splitlines() if telling.search(line))


def done(process: subprocess.Popen[str], timeout_s: float = 900) -> str:
    """Wait for a world, check that it succeeds, and return its output."""
    output, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, output
    return output
