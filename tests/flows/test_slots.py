"""Slots with a real Prefect server: who waits for whom, how Prefect's pages show it, and how slots become free again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flows.server import server_module
from flows.slots import LEASE_S, RENEW_S, Demand, Slots

from .conftest import REPOSITORY, flow_environment, wait_for

GB = 1_000_000_000
NEEDS = {
    "machine": "here", "memory_bytes": 8 * GB,
    "stages": [
        {"stage": "pretrain", "trains": True, "machines": ["here"], "here_bytes": 5.2 * GB},
        {"stage": "evaluate@a", "trains": False, "machines": ["here"], "here_bytes": 1.5 * GB},
        {"stage": "evaluate@b", "trains": False, "machines": ["here"], "here_bytes": 3 * GB},
        {"stage": "finetune@large", "trains": True, "machines": ["here"], "here_bytes": 80 * GB},
        {"stage": "finetune@far", "trains": True, "machines": ["here", "there"], "here_bytes": GB},
        {"stage": "evaluate@far", "trains": False, "machines": ["here", "there"], "here_bytes": GB},
        {"stage": "finetune@cluster", "trains": True, "machines": [], "here_bytes": 0},
    ],
}  # fmt: skip


def test_trainings_take_the_machine_and_memory_and_slurm_jobs_nothing() -> None:
    slots = Slots(NEEDS)
    assert slots.demands("pretrain") == [Demand("alpro-training-here", 1, 1), Demand("alpro-memory-here", 6, 8)]
    assert slots.demands("evaluate@a") == [Demand("alpro-memory-here", 2, 8)]
    assert [demand.slots for demand in slots.demands("finetune@large")] == [1, 8], "more than there is: all of it"
    assert slots.demands("finetune@cluster") == slots.demands("validate@a") == []
    with Slots({}).held("pretrain") as limits:
        assert limits == [], "a run with its own server takes none"


def test_other_hosts_give_their_whole_slot_also_to_an_evaluation() -> None:
    limits = [demand.limit for demand in Slots(NEEDS).demands("finetune@far")]
    assert limits == ["alpro-training-here", "alpro-training-there", "alpro-memory-here"]
    assert [demand.limit for demand in Slots(NEEDS).demands("evaluate@far")] == ["alpro-training-there", "alpro-memory-here"]


def test_lease_outlives_three_failed_renewals() -> None:
    assert LEASE_S >= 60 and RENEW_S * 4 <= LEASE_S


# A flow with one task that works while it has the slots of a stage, until a file exists.
FLOW = f"""
import sys, time
from pathlib import Path
from prefect import flow, task
from flows import slots

slots.LEASE_S, slots.RENEW_S, slots.POLL_S, slots.FORGOTTEN_S = 60.0, 2.0, 0.5, float(sys.argv[3])
stage, ends = sys.argv[1], Path(sys.argv[2])

@task(task_run_name=stage)
def work():
    while not ends.exists():
        time.sleep(0.1)

@flow
def run():
    with slots.Slots({NEEDS!r}).held(stage) as limits:
        work.with_options(tags=limits)()

run.with_options(flow_run_name=ends.name)()
"""


class Server:
    """A Prefect server on a port of its own, with its files in `home`."""

    def __init__(self, home: Path, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as one:
            self.port = one.getsockname()[1]
        self.home, self.folder = home, folder
        self.runs: dict[str, subprocess.Popen[bytes]] = {}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return flow_environment(self.home) | {"PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api"}

    def start(self) -> None:
        log = (self.folder / "server.log").open("a")
        command = [sys.executable, "-m", *server_module(self.port, "info")]
        self.process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        wait_for(self.answers, "server")

    def answers(self) -> bool:
        try:
            return bool(self.ask("health", None))
        except OSError:
            return False

    def ask(self, path: str, question: dict[str, Any] | None = None, method: str | None = None) -> Any:
        data = None if question is None else json.dumps(question).encode()
        address = f"http://127.0.0.1:{self.port}/api/{path}"
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
        while True:
            try:
                with urllib.request.urlopen(request) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code != 503:  # its database is busy
                    raise
                time.sleep(1)

    def run(self, name: str, stage: str, forgotten_s: float = 300) -> None:
        """Start a run that works in a stage until `finish`."""
        command = [sys.executable, "-c", FLOW, stage, str(self.folder / name), str(forgotten_s)]
        log = (self.folder / f"{name}.log").open("w")
        self.runs[name] = subprocess.Popen(command, cwd=REPOSITORY, env=self.environment, stdout=log, stderr=log)

    def finish(self, name: str) -> None:
        (self.folder / name).touch()
        assert self.runs[name].wait(120) == 0, (self.folder / f"{name}.log").read_text()

    def flow_run(self, name: str) -> dict[str, Any]:
        found = self.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return dict(found[0]["state"]) if found else {"name": "", "message": ""}

    def wait_for(self, name: str, state: str) -> None:
        wait_for(lambda: self.flow_run(name)["name"] == state or self.runs[name].poll() is not None, f"{name} {state}")
        assert self.flow_run(name)["name"] == state, (self.folder / f"{name}.log").read_text()

    def works(self, name: str) -> bool:
        """Return True if the run's task is running, so that it has its slots."""
        question = {"flow_runs": {"name": {"any_": [name]}}, "task_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
        return bool(self.ask("task_runs/filter", question))

    def taken(self, limit: str) -> int:
        return int(self.ask(f"v2/concurrency_limits/{limit}")["active_slots"])


@contextmanager
def ended(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        for process in [*server.runs.values(), server.process]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def server(server_home: Path, tmp_path: Path) -> Iterator[Server]:
    """A running server without limits and runs."""
    with ended(Server(server_home, tmp_path)) as started:
        started.start()
        for kind in ("v2/concurrency_limits", "flow_runs"):
            for old in started.ask(f"{kind}/filter", {}):
                started.ask(f"{kind}/{old['id']}", method="DELETE")
        yield started


@pytest.mark.slow  # a server, and flows in four processes
def test_second_training_waits_visibly_while_an_evaluation_works_beside_the_first(server: Server) -> None:
    server.run("first", "pretrain")
    wait_for(lambda: server.works("first"), "first training")
    server.run("second", "pretrain")
    server.wait_for("second", "Waiting")
    wait_for(lambda: "first has it for pretrain, since 2" in server.flow_run("second")["message"], "name of the holder")
    assert server.flow_run("second")["message"].startswith("waiting for the training slot of here (")
    server.run("beside", "evaluate@a")
    wait_for(lambda: server.works("beside"), "evaluation beside it")
    server.run("large", "evaluate@b")
    server.wait_for("large", "Waiting")
    assert server.flow_run("large")["message"].startswith("waiting for 3 GB of memory on here")
    assert (server.taken("alpro-training-here"), server.taken("alpro-memory-here")) == (1, 8)
    server.finish("first")
    server.wait_for("second", "Running")
    wait_for(lambda: server.works("second") or server.works("large"), "next run")
    for name in ("beside", "second", "large"):
        server.finish(name)
        assert server.flow_run(name)["name"] == "Completed"
    assert (server.taken("alpro-training-here"), server.taken("alpro-memory-here")) == (0, 0)


@pytest.mark.slow  # a lease of a minute has to expire
def test_slots_of_a_killed_run_become_free(server: Server) -> None:
    server.run("killed", "pretrain")
    wait_for(lambda: server.works("killed"), "training")
    server.run("next", "pretrain")
    server.wait_for("next", "Waiting")
    server.runs["killed"].send_signal(signal.SIGKILL)
    killed_s = time.monotonic()
    wait_for(lambda: server.works("next"), "training of the next run")
    print(f"slot free after {time.monotonic() - killed_s:.0f} s")
    server.finish("next")


@pytest.mark.slow  # the server starts twice
def test_training_keeps_its_slots_when_the_server_restarts(server: Server) -> None:
    server.run("first", "pretrain")
    wait_for(lambda: server.works("first"), "training")
    server.run("second", "pretrain")
    server.wait_for("second", "Waiting")
    assert server.process is not None
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    time.sleep(5)  # both runs ask in vain
    server.start()
    server.wait_for("second", "Waiting")
    assert server.taken("alpro-training-here") == 1
    server.finish("first")
    wait_for(lambda: server.works("second"), "second training")
    server.finish("second")
    assert (server.taken("alpro-training-here"), server.taken("alpro-memory-here")) == (0, 0)


@pytest.mark.slow  # a server, and flows in two processes
def test_size_that_a_user_gave_a_limit_is_kept_and_forgotten_slots_are_freed(server: Server) -> None:
    server.ask("v2/concurrency_limits/", {"name": "alpro-memory-here", "limit": 0})
    server.ask("v2/concurrency_limits/", {"name": "alpro-training-here", "limit": 1, "active_slots": 1})
    server.run("one", "pretrain", forgotten_s=3)  # of a server that was restored: nobody has the slot
    closed = "waiting for 6 GB of memory on here"
    wait_for(lambda: server.flow_run("one")["message"] == closed, "run that waits only for memory")
    command = [str(Path(sys.executable).with_name("prefect")), "gcl", "update", "alpro-memory-here", "--limit", "4"]
    subprocess.run(command, env=server.environment, check=True, capture_output=True)
    wait_for(lambda: server.works("one"), "training")
    assert (server.taken("alpro-training-here"), server.taken("alpro-memory-here")) == (1, 4)
    server.finish("one")
    assert "no run works, but the training slot of here is taken" in (server.folder / "one.log").read_text()
    assert os.path.exists(server.home / "concurrency_leases"), "on disk, to survive a restart"
