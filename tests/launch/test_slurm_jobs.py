"""`launch.scheduler: slurm` with a real Slurm of three nodes: same bytes as without, preempted, cancelled, refused, failed.

The nodes are namespaces of this machine (tests/launch/slurm_cluster.py), with ssh switched off.
`pytest -s -m slow tests/launch/test_slurm_jobs.py` as root prints the times.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launch.cluster import Cluster, missing
from tests.launch.slurm_cluster import (
    kill_node,
    missing_accounts,
    missing_slurm,
    revive_node,
    slurm,
    start_slurm,
)
from tests.launch.test_cluster import OTHER_NAMES, TRAIN, configure, digests, output_of, project, read_until, train
from tests.training.processes import needs_horovod

__all__ = ["project"]  # a fixture
pytestmark = [pytest.mark.slow, needs_horovod]
LONG = ["-S", "pretrain.epochs=40", "-S", "pretrain.save_every_s=0.5"]
ENDED_S = 60.0  # for Slurm to end a job: KillWait is 30 s


class Slurm:
    """The cluster, and how a stage runs on it."""

    def __init__(self, cluster: Cluster, variables: dict[str, str], project: Path) -> None:
        self.cluster, self.variables, self.project = cluster, variables, project

    def configure(self, processes: int | None = None, backend: str = "horovod", **asked: Any) -> None:
        configure(self.project, None, None, processes=processes, backend=backend, scheduler="slurm", slurm=asked)

    def start(self, name: str, *words: str) -> subprocess.Popen[str]:
        """Start a training; its output folder is out/NAME."""
        words = ("--", *TRAIN, *words, "--output", f"out/{name}/model", "--record", f"out/{name}/record")
        return self.cluster.launch(self.project, *words, **self.variables)

    def run(self, name: str, *words: str) -> str:
        began_s = time.monotonic()
        code, output = output_of(self.start(name, *words))
        assert code == 0, output
        print(f"{name}: {time.monotonic() - began_s:.1f} s")
        return output

    def number(self) -> str:
        (number,) = slurm(self.cluster, "squeue", "--noheader", "--format=%i").split()
        return number

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the stage that waits for its job."""
        (submitter,) = (
            line.split()[0]
            for line in self.cluster.launcher.run("ps", "-eo", "pid,args").splitlines()
            if "alpro launch" in line and " sh -c" not in line
        )
        self.cluster.launcher.run("kill", f"-{number.name.removeprefix('SIG')}", submitter)

    def wait_until_empty(self, within_s: float = ENDED_S) -> float:
        """Wait until the queue is empty and no rank is left; return how long that took."""
        began_s = time.monotonic()
        while slurm(self.cluster, "squeue", "--noheader") or self.ranks():
            assert time.monotonic() - began_s < within_s, slurm(self.cluster, "squeue")
            time.sleep(0.5)
        return time.monotonic() - began_s

    def nodes_of_job(self) -> list[str]:
        listed = slurm(self.cluster, "squeue", "--noheader", "--format=%N").strip()
        return slurm(self.cluster, "scontrol", "show", "hostnames", listed).split()

    def send_to_ranks(self, name: str) -> None:
        for node in self.nodes_of_job():
            self.cluster.hosts[node].run("pkill", f"-{name}", "-f", "alpro train")

    def elapsed_s(self) -> int:
        minutes, seconds = slurm(self.cluster, "squeue", "--noheader", "--format=%M").strip().split(":")
        return 60 * int(minutes) + int(seconds)

    def ranks(self) -> list[str]:
        lines = "".join(host.run("ps", "-eo", "args") for host in self.cluster.hosts.values()).splitlines()
        return [line for line in lines if "alpro train" in line or "alpro launch" in line]


@pytest.fixture(scope="module")
def nodes(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if reason := missing() or missing_slurm():
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("slurm") / "cluster", OTHER_NAMES) as cluster:
        for name in OTHER_NAMES:
            cluster.stop_sshd(name)
        yield Slurm(cluster, start_slurm(cluster), project)


@pytest.fixture(scope="module")
def undisturbed(nodes: Slurm) -> dict[str, str]:
    """Digests of a longer training of two processes without Slurm."""
    configure(nodes.project, None, None, processes=2)
    train(nodes.cluster, nodes.project, "out/undisturbed", *LONG)
    return digests(nodes.project / "out/undisturbed")


@pytest.mark.parametrize("backend", ["horovod", "torch"])
def test_a_job_gives_the_bytes_of_a_run_without_slurm(nodes: Slurm, backend: str) -> None:
    configure(nodes.project, None, None, processes=3, backend=backend)
    train(nodes.cluster, nodes.project, f"out/{backend}-without")
    nodes.configure(3, backend, nodes=3)
    output = nodes.run(f"{backend}-with")
    assert digests(nodes.project / f"out/{backend}-with") == digests(nodes.project / f"out/{backend}-without")
    assert re.search(r"alpro launch: Slurm job \d+ runs on h[abc]", output) and "rank 2 (hc)" in output
    assert nodes.wait_until_empty() < ENDED_S
    assert list((nodes.project / ".state/slurm").iterdir()) == []


def test_without_gpus_a_job_has_two_processes_as_a_machine_has(nodes: Slurm) -> None:
    configure(nodes.project, None, None, processes=None)
    train(nodes.cluster, nodes.project, "out/null-without")
    nodes.configure()
    nodes.run("null-with")
    assert digests(nodes.project / "out/null-with") == digests(nodes.project / "out/null-without")


@pytest.mark.parametrize("how", ["preempted with a warning", "preempted at once", "requeued", "warned"])
def test_an_interrupted_job_resumes_to_the_same_bytes(nodes: Slurm, undisturbed: dict[str, str], how: str) -> None:
    """A warning is what a job gets shortly before its time limit."""
    nodes.configure(2, nodes=2, partition="hasty" if how == "preempted at once" else "all")
    name = how.replace(" ", "-")
    run = nodes.start(name, *LONG)
    lines = read_until(run, "step 20/")
    began_s = time.monotonic()
    if how.startswith("preempted"):
        words = ["--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap", "sleep 5"]
        slurm(nodes.cluster, "sbatch", *words)
    elif how == "requeued":
        slurm(nodes.cluster, "scontrol", "requeue", nodes.number())
    else:
        slurm(nodes.cluster, "scancel", "--batch", "--signal=USR1", nodes.number())
    lines += read_until(run, "starts again, restart 1")
    print("".join(lines))
    print(f"{how}: starts again after {time.monotonic() - began_s:.1f} s")
    code, rest = output_of(run)
    output = "".join(lines) + rest
    assert code == 0, output
    resumed = [int(step) for step in re.findall(r"resume: continuing after step (\d+)", rest)]
    print(f"{how}: resumed at step {resumed}")
    assert resumed
    if how in ("warned", "preempted with a warning"):
        assert "the training is saved; Slurm job" in output
    assert digests(nodes.project / f"out/{name}") == undisturbed
    nodes.wait_until_empty()


def test_one_process_is_saved_on_a_warning_too(nodes: Slurm) -> None:
    configure(nodes.project, None, None, processes=1)
    train(nodes.cluster, nodes.project, "out/single-without", *LONG)
    nodes.configure(1)
    run = nodes.start("single", *LONG)
    read_until(run, "step 20/")
    slurm(nodes.cluster, "scancel", "--batch", "--signal=USR1", nodes.number())
    code, output = output_of(run)
    assert code == 0 and "the training is saved; Slurm job" in output and "resume: continuing after step" in output
    assert digests(nodes.project / "out/single") == digests(nodes.project / "out/single-without")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_or_killed_stage_leaves_nothing_in_the_queue(nodes: Slurm, number: signal.Signals) -> None:
    nodes.configure(2, nodes=2)
    run = nodes.start("stopped", "-S", "pretrain.epochs=1000")
    read_until(run, "step 20/")
    nodes.send(number)
    code, output = output_of(run, 200)
    took_s = nodes.wait_until_empty()
    print(f"{number.name}: nothing left {took_s:.1f} s after the end of the stage")
    assert code != 0
    if number != signal.SIGKILL:
        assert f"alpro: stopped by {number.name}; Slurm job" in output.splitlines()[-1]


FLOW = """
import sys
from pathlib import Path
from flows.commands import stream
stream([sys.executable, "-m", "alpro", "launch", *sys.argv[1:]], Path.cwd(), lambda line: print(line, flush=True))
"""


def test_a_cancelled_flow_run_leaves_nothing_in_the_queue(nodes: Slurm) -> None:
    """A flow streams the command of a stage as here, and Prefect interrupts it."""
    nodes.configure(2, nodes=2)
    words = ["--", *TRAIN, "-S", "pretrain.epochs=1000", "--output", "out/flow/model", "--record", "out/flow/record"]
    command = ["env", "-C", str(nodes.project), sys.executable, "-c", FLOW, *words]
    run = nodes.cluster.start(command, **nodes.variables)
    read_until(run, "step 20/")
    number = nodes.number()
    nodes.cluster.launcher.run("pkill", "-INT", "-f", "flows.commands import stream")  # in the process numbers of that host
    output_of(run, 60)
    print(f"nothing of job {number} left {nodes.wait_until_empty():.1f} s after the end of the flow")


def test_a_waiting_job_is_cancelled_at_once(nodes: Slurm) -> None:
    nodes.configure(3, nodes=3)
    slurm(nodes.cluster, "sbatch", "--job-name=other", "--nodes=1", "--exclusive", "--output=/dev/null", "--wrap", "sleep 600")
    run = nodes.start("waiting")
    read_until(run, "waits (")
    nodes.send(signal.SIGTERM)
    output_of(run, 60)
    slurm(nodes.cluster, "scancel", "--name=other")
    nodes.wait_until_empty()


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"partition": "nosuch"}, r"alpro: Slurm refuses the job \(.*nvalid partition.*\); change launch.slurm.partition, .*"),
        ({"constraint": "nosuch"}, r"alpro: Slurm refuses the job \(.*nvalid feature.*\); change launch.slurm.constraint, .*"),
        ({"nodes": 4}, r"alpro: Slurm job \d+ would wait for ever \(PartitionNodeLimit\), .*; change launch.slurm.nodes"),
        ({"gpus_per_node": 2}, r"alpro: Slurm refuses the job \(.*\); change launch.slurm.gpus_per_node.*"),
        ({"partition": "short", "time": "2:00:00"}, r"alpro: Slurm (job \d+ would wait|refuses the job) .*slurm.time.*"),
    ],
)  # fmt: skip
def test_a_request_that_slurm_cannot_meet_is_one_line(nodes: Slurm, asked: dict[str, Any], line: str) -> None:
    nodes.configure(None, **asked)
    code, output = output_of(nodes.start("refused"), 120)
    assert code == 1 and re.fullmatch(line, output.splitlines()[-1])
    nodes.wait_until_empty()


def test_check_asks_slurm_without_submitting(nodes: Slurm) -> None:
    nodes.configure()
    code, output = output_of(nodes.cluster.launch(nodes.project, "--check", **nodes.variables), 120)
    assert code == 0 and re.search(r"Job \d+ to start at .* on nodes h[abc]", output)
    nodes.configure(partition="nosuch")
    code, output = output_of(nodes.cluster.launch(nodes.project, "--check", **nodes.variables), 120)
    assert code == 1 and "change launch.slurm.partition" in output


def test_an_unknown_account_is_one_line(project: Path, tmp_path: Path) -> None:
    if reason := missing_accounts():
        pytest.skip(reason)
    with Cluster(tmp_path / "cluster", {"ha": ["eth0"]}) as cluster:
        accounts = Slurm(cluster, start_slurm(cluster, account="known"), project)
        accounts.configure(account="nosuch")
        code, output = output_of(accounts.start("account"), 120)
        assert code == 1
        line = r"alpro: Slurm refuses the job \(.*nvalid account.*\); change launch.slurm.account, .*"
        assert re.fullmatch(line, output.splitlines()[-1])
        accounts.configure(account="known")
        code, output = output_of(accounts.cluster.launch(project, "--check", **accounts.variables), 120)
        assert code == 0


def test_a_training_longer_than_the_time_limit_is_saved_and_resumes(nodes: Slurm, undisturbed: dict[str, str]) -> None:
    """Its ranks stand still until Slurm has sent its warning, at least 36 s before the limit."""
    nodes.configure(2, nodes=2, time="3")
    run = nodes.start("longer", *LONG)
    lines = read_until(run, "step 40/")
    nodes.send_to_ranks("STOP")
    while nodes.elapsed_s() < 150:
        time.sleep(0.5)
    nodes.send_to_ranks("CONT")
    lines += read_until(run, "starts again, restart 1")
    code, rest = output_of(run)
    print("".join(lines))
    assert code == 0 and "the training is saved; Slurm job" in "".join(lines) and "resume: continuing after step" in rest
    assert digests(nodes.project / "out/longer") == undisturbed


def test_a_job_out_of_time_is_one_line_and_the_next_resumes(nodes: Slurm, undisturbed: dict[str, str]) -> None:
    """Its ranks stand still, so they cannot heed the warning."""
    nodes.configure(2, nodes=2, time="3")
    run = nodes.start("out-of-time", *LONG)
    lines = read_until(run, "step 40/")
    nodes.send_to_ranks("STOP")
    code, rest = output_of(run, 600)
    last = rest.splitlines()[-1]
    print("".join(lines))
    assert code == 1
    assert re.fullmatch(
        r"alpro: Slurm job \d+ ran out of time; raise launch.slurm.time=3, or run it again: the same command resumes a "
        "training from its last saved state", last,
    )  # fmt: skip
    nodes.wait_until_empty()
    output = nodes.run("out-of-time", *LONG)
    assert "resume: continuing after step" in output
    assert digests(nodes.project / "out/out-of-time") == undisturbed


@pytest.mark.parametrize("which", ["the first node", "another node"])
def test_a_training_resumes_after_one_of_its_nodes_has_died(nodes: Slurm, undisturbed: dict[str, str], which: str) -> None:
    """Slurm requeues a job whose first node, that of the batch script, dies. The job requeues itself if another one does."""
    name = which.replace(" ", "-")
    nodes.configure(2, nodes=2)
    run = nodes.start(name, *LONG)
    lines = read_until(run, "step 40/")
    node = nodes.nodes_of_job()[0 if which == "the first node" else 1]
    if which == "the first node":
        kill_node(nodes.cluster, node)
    else:
        nodes.cluster.cut(node)
    began_s = time.monotonic()
    lines += read_until(run, "starts again, restart 1")
    print("".join(lines))
    print(f"{which}, {node}: starts again after {time.monotonic() - began_s:.1f} s")
    code, output = output_of(run)
    assert code == 0 and "resume: continuing after step" in output
    assert f"rank 0 ({node})" not in output and f"rank 1 ({node})" not in output
    assert which == "the first node" or "a node of this job is lost; Slurm job" in "".join(lines)
    assert digests(nodes.project / f"out/{name}") == undisturbed
    if which == "another node":
        nodes.cluster.mend(node)
    revive_node(nodes.cluster, node)


def test_a_node_whose_ranks_are_killed_is_one_line_and_the_next_resumes(nodes: Slurm, undisturbed: dict[str, str]) -> None:
    nodes.configure(2, nodes=2)
    run = nodes.start("killed-ranks", *LONG)
    lines = read_until(run, "step 40/")
    node = nodes.nodes_of_job()[1]
    nodes.cluster.hosts[node].run("pkill", "-KILL", "-f", "alpro train")
    code, output = output_of(run)
    print("".join(lines))
    last = output.splitlines()[-1]
    assert code == 1 and re.search(rf"alpro: Slurm job \d+ on \S+ failed: rank 1 \({node}, process \d+\) ", last)
    nodes.wait_until_empty()
    output = nodes.run("killed-ranks", *LONG)
    assert "resume: continuing after step" in output
    assert digests(nodes.project / "out/killed-ranks") == undisturbed
