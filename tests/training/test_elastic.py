"""Elastic trainings commit each sample exactly once while processes are lost and join."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import groupby, pairwise
from pathlib import Path

import psutil
import pytest
import yaml

from alpro.config import Launch
from alpro.errors import LaunchError
from alpro.launch.elastic import ElasticSupervisor, discovered_hosts, elastic_command, fixed_hosts
from alpro.training.sample_log import SampleLog
from tests.training.elastic_world import planned
from tests.training.processes import ROOT, made_project, needs_horovod, world


def test_sample_log_drops_undone_steps_and_adds_missing_ones(tmp_path: Path) -> None:
    log = SampleLog(tmp_path / "log.jsonl")
    rows = [{"step": step, "processes": 2, "ids": [f"a/{step}"]} for step in range(1, 7)]
    log.extend(rows[:4])
    log.resume(2, [])
    assert log.rows() == rows[:2]
    with log.path.open("a") as file:
        file.write('{"step": 3, "proc')  # cut off by a kill
    log.resume(5, rows[1:5])
    assert log.rows() == rows[:5]


def test_fixed_hosts_are_given_as_a_discovery_program(tmp_path: Path) -> None:
    assert discovered_hosts(str(fixed_hosts("localhost:1,127.0.0.1:2", tmp_path))) == "localhost:1,127.0.0.1:2"
    with pytest.raises(LaunchError, match=r"launch.discovery: .*no-such cannot be run .*name:slots"):
        discovered_hosts(str(tmp_path / "no-such"))
    with pytest.raises(LaunchError, match=r"launch.discovery: .* prints '-oProxyCommand=x:1'; it must print `name:slots`"):
        discovered_hosts(str(fixed_hosts("-oProxyCommand=x:1", tmp_path)))


@needs_horovod
def test_command_starts_an_elastic_horovodrun() -> None:
    settings = Launch(processes=3, min_processes=2, max_processes=4, discovery="hosts.sh")
    text = " ".join(elastic_command(settings, "hosts.sh", ["python", "train.py"]))
    assert f"--min-np 2 --max-np 4 --host-discovery-script {os.path.abspath('hosts.sh')}" in text
    assert text.endswith("--elastic-timeout 120 python train.py")
    command = elastic_command(settings, "/my hosts/a;b.sh", ["x"])
    assert "'/my hosts/a;b.sh'" in command, "Horovod passes the program to a shell"


def test_process_whose_loss_left_too_few_is_reported() -> None:
    settings = Launch(processes=3, min_processes=2, hosts="localhost:3")
    run = ElasticSupervisor(settings, ["sleep", "60"], dict(os.environ))
    try:
        ranks = [run._register(number) for number in range(3)]
        for number in (1, 2, 0):
            run._on_failure(ranks[number], "ended without an error message")
        assert str(run._diagnose(None, "the starter ended with exit code 1")).startswith(
            "rank 2 ended without an error message"
        )
    finally:
        run._shut_down()


def wait_for(what: Callable[[], bool], seconds: float = 600) -> None:
    until_s = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until_s
        time.sleep(0.05)


class Hosts:
    """The available hosts, initially three names of this machine with one slot each, and the program that lists them."""

    names = ("localhost", "127.0.0.1", socket.gethostname())

    def __init__(self, folder: Path) -> None:
        self.file, self.discovery = folder / "hosts", folder / "discover"
        self.become({name: 1 for name in self.names})
        self.discovery.write_text(f"#!/bin/sh\ncat {self.file}\n")
        self.discovery.chmod(0o755)

    def become(self, slots: Mapping[str, int]) -> None:
        self.file.write_text("".join(f"{name}:{number}\n" for name, number in slots.items()))

    def replace(self, lost: str) -> None:
        """Remove the lost host and give another one a second slot."""
        first, second = (name for name in self.names if name != lost)
        self.become({first: 2, second: 1})


def still_runs(run: subprocess.Popen[str]) -> None:
    """Fail with the output if the run has ended too early for the test."""
    assert run.poll() is None, run.communicate()[0]


@needs_horovod
@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_every_sample_counts_once_when_a_process_is_killed_and_another_joins(tmp_path: Path, lost: int) -> None:
    samples, log, processes = 240, SampleLog(tmp_path / "samples.jsonl"), tmp_path / "processes"
    processes.mkdir()
    hosts = Hosts(tmp_path)

    def steps() -> int:
        return len(log.rows())

    def joined() -> int:
        return len(list(processes.iterdir()))

    options = {"min_processes": 2, "max_processes": 3, "discovery": str(hosts.discovery)}
    run = world(3, ["-m", "tests.training.elastic_world", str(tmp_path), str(samples), "0.3"], **options)
    try:
        wait_for(lambda: steps() >= 8 or run.poll() is not None)
        still_runs(run)
        (victim,) = (path for path in processes.iterdir() if path.read_text().startswith(f"{lost} "))
        os.kill(int(victim.name), signal.SIGKILL)
        killed_s, at_kill = time.monotonic(), steps()
        # sooner than Gloo's time is over, which the launcher sets to the 300 s of `world`
        wait_for(lambda: steps() >= at_kill + 8 or run.poll() is not None, seconds=200)
        print(f"8 steps on {time.monotonic() - killed_s:.1f} s after rank {lost} was killed")
        (host,) = (name for name in hosts.names if name in victim.read_text().split())
        hosts.replace(host)
        wait_for(lambda: joined() == 4 or run.poll() is not None)
        output, _ = run.communicate(timeout=900)
    finally:
        run.kill()
    print(output)
    assert run.returncode == 0, output
    assert f"process {victim.name}) ended without an error message" in output and "elastic: 2 processes from here on" in output

    rows = log.rows()
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    changes = ((before, row) for before, row in pairwise([{"processes": 0}, *rows]) if row["processes"] != before["processes"])
    worlds = [(row["step"] - 1, row["processes"]) for _, row in changes]
    assert [processes for _, processes in worlds] == [3, 2, 3]
    plan = planned(samples, 3)
    for number, row in enumerate(rows):
        for step, size in worlds[1:]:
            plan = plan.resized(step, size) if step == number else plan
        assert row["ids"] == [f"toy/{sample}" for sample in plan.at(number).indices]
    assert plan.total_steps == len(rows)
    counts = Counter(name for row in rows for name in row["ids"])
    print(f"processes {worlds}; {len(rows)} steps, {len(counts)} of {samples} samples, each {set(counts.values())} times")
    assert set(counts.values()) == {1} and samples - len(counts) < 2 * 3  # samples that fill no batch


@needs_horovod
@pytest.mark.slow
def test_pre_training_reads_every_clip_once_when_rank_0_is_replaced(tmp_path: Path) -> None:
    params = yaml.safe_load((ROOT / "recipes/tiny.yaml").read_text())
    params["sample"] |= {"pretrain_videos": 2400, "pretrain_images": 240}
    params["pretrain"] |= {"batch_size": 2, "log_every": 20}
    hosts, log = Hosts(tmp_path), SampleLog(tmp_path / "samples.jsonl")
    params["launch"] |= {
        "processes": 3, "min_processes": 2, "max_processes": 3, "start_timeout_s": 300, "commit_every": 5,
        "discovery": str(hosts.discovery), "sample_log": str(log.path),
    }  # fmt: skip
    made_project(tmp_path / "project", params)
    scratch = "recipes/init/scratch.yaml"
    train = ["train", "pretrain", "--init", scratch, "--teacher", scratch, "--output", "out/model", "--record", "out/record"]
    run = subprocess.Popen(
        [sys.executable, "-m", "alpro", "launch", "--", *train], cwd=tmp_path / "project", text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip

    def ranks() -> dict[str, tuple[psutil.Process, str]]:
        """Return process and host by the initial rank."""
        found = {}
        for process in psutil.Process(run.pid).children(recursive=True):
            with suppress(psutil.Error):
                variables = process.environ()
                if "train" in process.cmdline() and "HOROVOD_RANK" in variables:
                    found[variables["HOROVOD_RANK"]] = process, variables["HOROVOD_HOSTNAME"]
        return found

    def steps() -> int:
        return len(log.rows())

    try:
        wait_for(lambda: steps() >= 20 or run.poll() is not None)
        still_runs(run)
        victim, host = ranks()["0"]
        victim.kill()
        at_kill = steps()
        wait_for(lambda: steps() >= at_kill + 10 or run.poll() is not None)
        hosts.replace(host)
        output, _ = run.communicate(timeout=900)
    finally:
        run.kill()
    print(output)
    assert run.returncode == 0, output

    rows = log.rows()
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert [size for size, _ in groupby(row["processes"] for row in rows)] == [3, 2, 3]
    counts = Counter(name for row in rows for name in row["ids"])
    clips = 2400 + 240
    print(f"{len(rows)} steps, {len(counts)} of {clips} clips, each {set(counts.values())} times")
    assert set(counts.values()) == {1}
    assert clips - len(counts) < 2 * 2 * 3 * 3  # samples of either corpus that filled no batch in three worlds
    history = (tmp_path / "project/out/record/history.jsonl").read_text()
    assert f'"step": {len(rows)},' in history
