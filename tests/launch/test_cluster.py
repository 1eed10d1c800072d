"""Runs on two and three hosts over ssh: same bytes as on one, faults found before the start, cut cables, bad networks.

The hosts are namespaces of this machine (tests/launch/cluster.py). `pytest -s -m slow tests/launch/test_cluster.py` as root
prints the times.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from alpro.files.atomic import sha256
from tests.launch.cluster import BACK, PORT, Cluster, missing
from tests.launch.slurm_cluster import missing_slurm, start_slurm
from tests.training.processes import ROOT, made_project, needs_horovod

pytestmark = [pytest.mark.slow, needs_horovod]
SCRATCH = "recipes/init/scratch.yaml"
TRAIN = ["train", "pretrain", "--init", SCRATCH, "--teacher", SCRATCH]
TWO = {"ha": ["eth0"], "hb": ["eth0"]}
OTHER_NAMES = {"ha": ["eth0"], "hb": ["lan7"], "hc": ["enp3s0f1"]}
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@pytest.fixture(scope="module", autouse=True)
def possible() -> None:
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of recipe tiny."""
    folder = tmp_path_factory.mktemp("project") / "checkout"  # so that a host can lose it alone
    made_project(folder, yaml.safe_load((ROOT / "recipes/tiny.yaml").read_text()))
    return folder


def configure(project: Path, cluster: Cluster | None, hosts: str | None, **launch: Any) -> None:
    """Write params.yaml for these hosts, and forget earlier runs that did not end."""
    shutil.rmtree(project / ".state", ignore_errors=True)
    params = yaml.safe_load((project / "params.yaml").read_text())
    fresh = yaml.safe_load((ROOT / "recipes/tiny.yaml").read_text())["launch"]
    reach = {"ssh_port": PORT, "ssh_identity": str(cluster.key)} if cluster else {}
    params["launch"] = {**fresh, "hosts": hosts, "start_timeout_s": 600, **reach, **launch}
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def output_of(process: subprocess.Popen[str], timeout_s: float = 1800) -> tuple[int, str]:
    output, _ = process.communicate(timeout=timeout_s)
    print(output)
    return process.returncode, output


def train(cluster: Cluster, project: Path, name: str, *words: str) -> str:
    """Train on the hosts of params.yaml; return the output of a run that succeeds."""
    began_s = time.monotonic()
    code, output = output_of(
        cluster.launch(project, "--", *TRAIN, *words, "--output", f"{name}/model", "--record", f"{name}/record")
    )
    assert code == 0, output
    print(f"{name}: {time.monotonic() - began_s:.1f} s")
    return output


def digests(folder: Path) -> dict[str, str]:
    found = {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    assert any(name.endswith(".safetensors") for name in found)
    return found


@pytest.fixture(scope="module")
def on_one_host(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, str]]:
    """Digests of what two and three processes on one host make."""
    found = {}
    with Cluster(tmp_path_factory.mktemp("one") / "cluster", {}) as cluster:
        for processes in (2, 3):
            configure(project, None, None, processes=processes)
            train(cluster, project, f"out/one-{processes}")
            found[processes] = digests(project / f"out/one-{processes}")
    return found


@pytest.mark.parametrize(("hosts", "processes"), [("ha:1,hb:1", 2), ("ha:1,hb:1,hc:1", 3)])
def test_hosts_with_other_interface_names_give_the_bytes_of_one_host(
    project: Path, tmp_path: Path, on_one_host: dict[int, dict[str, str]], hosts: str, processes: int
) -> None:
    with Cluster(tmp_path / "cluster", OTHER_NAMES) as cluster:
        configure(project, cluster, hosts, processes=processes)
        output = train(cluster, project, f"out/hosts-{processes}")
    assert digests(project / f"out/hosts-{processes}") == on_one_host[processes]
    assert "rank 0 (ha): pretrain: " in output and "alpro launch: hb: ok" in output


def test_two_hosts_give_the_bytes_of_one_with_torch_as_backend(project: Path, tmp_path: Path) -> None:
    with Cluster(tmp_path / "cluster", OTHER_NAMES) as cluster:
        configure(project, None, None, processes=2, backend="torch")
        train(cluster, project, "out/torch-one")
        configure(project, cluster, "ha:1,hb:1", processes=2, backend="torch")
        train(cluster, project, "out/torch-hosts")
    assert digests(project / "out/torch-hosts") == digests(project / "out/torch-one")


def test_delay_and_loss_give_the_same_bytes(project: Path, tmp_path: Path, on_one_host: dict[int, dict[str, str]]) -> None:
    with Cluster(tmp_path / "cluster", TWO, slow={"hb": (50.0, 1.0)}) as cluster:
        ping = cluster.launcher.run("python3", "-c", PING, cluster.addresses["hb"], str(PORT))
        print(f"connecting takes {float(ping):.3f} s")
        assert float(ping) >= 0.05
        configure(project, cluster, "ha:1,hb:1", processes=2)
        train(cluster, project, "out/slow")
    assert digests(project / "out/slow") == on_one_host[2]


PING = """
import socket, sys, time
began = time.monotonic()
socket.create_connection((sys.argv[1], int(sys.argv[2])))
print(time.monotonic() - began)
"""


def test_hosts_that_meet_on_another_network_need_the_parameter(
    project: Path, tmp_path: Path, on_one_host: dict[int, dict[str, str]]
) -> None:
    with Cluster(tmp_path / "cluster", {"ha": ["eth0", "ib0"], "hb": ["lan7", "ib1"]}, apart=True) as cluster:
        configure(project, cluster, "ha:1,hb:1", processes=2)
        code, output = output_of(cluster.launch(project, "--", *TRAIN, "--output", "x/model", "--record", "x/record"))
        last = output.splitlines()[-1]
        assert code == 1 and last.startswith("alpro: 2 of 2 hosts cannot take part: ha: cannot reach hb from eth0 (")
        assert f"ha has eth0 10.77.0.2/24, ib0 {BACK}.2/24; hb has lan7 10.77.0.3/24, ib1 {BACK}.3/24" in last
        assert f"launch.network_interfaces, such as [10.77.0.0/24, {BACK}.0/24]" in last

        configure(project, cluster, "ha:1,hb:1", processes=2, network_interfaces=[f"{BACK}.0/24"])
        output = train(cluster, project, "out/back")
        assert f"ib0 {BACK}.2" in output and f"ib1 {BACK}.3" in output
        assert digests(project / "out/back") == on_one_host[2]

        configure(project, cluster, "ha:1,hb:1", processes=2, network_interfaces=["ib0", "ib1"])
        assert output_of(cluster.launch(project, "--check"))[0] == 0
        configure(project, cluster, "ha:1,hb:1", processes=2, network_interfaces=["ib0"])
        code, output = output_of(cluster.launch(project, "--check"))
        assert code == 1 and "hb: launch.network_interfaces: hb has none of ib0; it has lan7 10.77.0.3/24, ib1" in output


def test_cut_cable_is_reported_within_30_s(project: Path, tmp_path: Path) -> None:
    with Cluster(tmp_path / "cluster", TWO) as cluster:
        configure(project, cluster, "ha:1,hb:1", processes=2)
        long = ["-S", "pretrain.epochs=1000"]
        run = cluster.launch(project, "--", *TRAIN, *long, "--output", "x/model", "--record", "x/record")
        lines = read_until(run, "step 10/")
        cluster.cut("hb")
        cut_s = time.monotonic()
        code, output = output_of(run)
        took_s = time.monotonic() - cut_s
        last = output.splitlines()[-1]
        print(f"ended {took_s:.1f} s after the cable was cut, having said {lines[-1]!r}")
        assert code == 1 and re.search(r"rank 1 \(hb, process \d+\) cannot be reached; its host or the network", last)
        assert took_s < 30
        until_s = time.monotonic() + 60
        while "alpro train" in cluster.hosts["ha"].run("ps", "ax") + cluster.hosts["hb"].run("ps", "ax"):
            assert time.monotonic() < until_s, "ranks are left behind"
            time.sleep(0.5)


def read_until(run: subprocess.Popen[str], text: str) -> list[str]:
    """Read the output of a run up to a line that contains a text."""
    lines = []
    assert run.stdout is not None
    for line in run.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError("".join(lines))


def test_elastic_hosts_come_and_go(project: Path, tmp_path: Path) -> None:
    with Cluster(tmp_path / "cluster", OTHER_NAMES) as cluster:
        hosts, discovery = tmp_path / "hosts", tmp_path / "discover"
        hosts.write_text("ha:1\nhb:1\n")
        discovery.write_text(f"#!/bin/sh\ncat {hosts}\n")
        discovery.chmod(0o755)
        elastic = {"min_processes": 1, "max_processes": 3, "commit_every": 5, "discovery": str(discovery)}
        configure(project, cluster, None, processes=2, **elastic)
        long = ["-S", "pretrain.epochs=1000"]
        run = cluster.launch(project, "--", *TRAIN, *long, "--output", "x/model", "--record", "x/record")
        read_until(run, "step 20/")
        hosts.write_text("ha:1\nhb:1\nhc:1\nnosuch:1\n")
        began_s = time.monotonic()
        lines = read_until(run, "elastic: 3 processes from here on")
        lines += read_until(run, "pretrain: step")
        print(f"hc takes part after {time.monotonic() - began_s:.1f} s")
        output = "".join(lines)
        assert "alpro launch: host hc may join" in output
        assert "host nosuch cannot join: its name does not resolve here" in output
        cluster.cut("hb")
        began_s = time.monotonic()
        hosts.write_text("ha:1\nhc:1\n")
        lines = read_until(run, "elastic: 2 processes from here on")
        lines += read_until(run, "pretrain: step")
        print(f"the training continues {time.monotonic() - began_s:.1f} s after the cable of hb was cut")
        assert re.search(r"rank \d \(hb, process \d+\) cannot be reached", "".join(lines))
        cluster.launcher.run("pkill", "-TERM", "-f", "alpro launch -- ")  # on this host alone: it has its own process numbers
        code, output = output_of(run, 300)
        assert code == 1 and "stopped by SIGTERM" in output.splitlines()[-1]
        until_s = time.monotonic() + 60
        while "alpro train" in cluster.hosts["ha"].run("ps", "ax") + cluster.hosts["hc"].run("ps", "ax"):
            assert time.monotonic() < until_s, "ranks are left behind"
            time.sleep(0.5)


@pytest.mark.parametrize("backend", ["horovod", "torch"])
def test_slurm_gives_the_hosts_and_srun_the_processes(project: Path, tmp_path: Path, backend: str) -> None:
    if reason := missing_slurm():
        pytest.skip(reason)
    with Cluster(tmp_path / "cluster", OTHER_NAMES) as cluster:
        configure(project, None, None, processes=3, backend=backend)
        train(cluster, project, f"out/{backend}-alone")
        for name in ("ha", "hb", "hc"):
            cluster.stop_sshd(name)
        variables = start_slurm(cluster)
        configure(project, None, None, processes=None, backend=backend)
        words = [*TRAIN, "--output", f"out/{backend}-slurm/model", "--record", f"out/{backend}-slurm/record"]
        script = tmp_path / "job.sh"
        script.write_text(f"#!/bin/sh\ncd {project}\nexec {sys.executable} -m alpro launch -- {shlex.join(words)}\n")
        log = tmp_path / "job.log"
        options = ["--nodes", "3", "--ntasks-per-node", "1", "--output", str(log)]
        began_s = time.monotonic()
        code, output = output_of(cluster.start(["sbatch", "--wait", *options, str(script)], **variables))
        print(log.read_text() if log.exists() else output, f"\nthe job took {time.monotonic() - began_s:.1f} s")
        queue = cluster.launcher.run("env", f"SLURM_CONF={variables['SLURM_CONF']}", "squeue", "--noheader")
    assert code == 0 and queue == "" and "alpro launch: hc: ok" in log.read_text()
    assert digests(project / f"out/{backend}-slurm") == digests(project / f"out/{backend}-alone")


class Fault:
    """Faults of host hb, each with what the check must report."""

    reports: ClassVar[dict[str, str]] = {
        "down": r"hb: cannot be reached over ssh \(.*(No route to host|timed out).*\); is it up",
        "no_sshd": r"hb: cannot be reached over ssh \(.*Connection refused\); is it up, does it run sshd, is launch.ssh_port",
        "key_refused": r"hb: refuses the key \(.*Permission denied.*launch.ssh_identity",
        "host_key_unknown": r"hb: ssh does not know or does not accept its host key",
        "name_unknown_here": r"hb: its name does not resolve here",
        "commit": r"hb: its commit is [0-9a-f]{7}, here [0-9a-f]{7}; check out the same one",
        "horovod": r"hb: horovod is 0\.0\.1, here [0-9.]+; run `make setup` there",
        "clock": r"hb: its clock is 3600 s ahead of this machine's; set both by NTP",
        "no_folder": r"hb: /\S+ is missing there; all hosts need the project",
        "empty_folder": r"hb: does not see data/\S+, .*, nor what this machine writes in /.+; the hosts need a shared file",
        "own_name": r"hb: this host's own name, 'hb', does not resolve",
        "own_name_loopback": r"hb: this host's own name, 'hb', stands for 127.0.1.1, where other hosts cannot reach it",
    }  # fmt: skip

    def __init__(self, cluster: Cluster, project: Path, folder: Path) -> None:
        self.cluster, self.project, self.folder = cluster, project, folder
        self.names = "".join(f"{address} {name}\n" for name, address in cluster.addresses.items())

    def down(self) -> None:
        self.cluster.cut("hb")

    def no_sshd(self) -> None:
        self.cluster.stop_sshd("hb")

    def key_refused(self) -> None:
        self.cluster.stop_sshd("hb")
        self.cluster.start_sshd("hb", "AuthorizedKeysFile none")

    def host_key_unknown(self) -> None:
        known = self.cluster.folder / "ssh" / "ssh_known_hosts"
        known.write_text("".join(line for line in known.read_text().splitlines(True) if not line.startswith("[hb]")))

    def name_unknown_here(self) -> None:
        names = "".join(line for line in self.names.splitlines(True) if not line.endswith(" hb\n"))
        self.cluster.replace_file("hl", Path("/etc/hosts"), f"127.0.0.1 localhost\n{names}")

    def commit(self) -> None:
        clone = self.folder / "clone"
        subprocess.run(["git", "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(clone)], check=True)
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, "commit", "--quiet", "--allow-empty", "-m", "another"], cwd=clone, check=True)
        is_worktree = (ROOT / ".git").is_file()
        self.cluster.replace_file("hb", ROOT / ".git", f"gitdir: {clone}/.git\n" if is_worktree else clone / ".git")

    def horovod(self) -> None:
        (file,) = (path for path in metadata.files("horovod") or () if path.name == "METADATA")
        text = re.sub(r"(?m)^Version: .*$", "Version: 0.0.1", file.read_text())
        self.cluster.replace_file("hb", Path(str(file.locate())), text)

    def clock(self) -> None:
        if not FAKETIME.exists():
            pytest.skip("needs libfaketime (apt-get install libfaketime)")
        self.cluster.stop_sshd("hb")
        self.cluster.start_sshd("hb", f'SetEnv LD_PRELOAD={FAKETIME} FAKETIME="+3600s"')

    def no_folder(self) -> None:
        self.cluster.hosts["hb"].run("mount", "-t", "tmpfs", "none", str(self.project.parent))

    def empty_folder(self) -> None:
        self.cluster.hosts["hb"].run("mount", "-t", "tmpfs", "none", str(self.project))
        self.cluster.hosts["hb"].run("cp", str(self.folder / "params.yaml"), str(self.project))

    def own_name(self) -> None:
        names = "".join(line for line in self.names.splitlines(True) if not line.endswith(" hb\n"))
        self.cluster.replace_file("hb", Path("/etc/hosts"), f"127.0.0.1 localhost\n{names}")

    def own_name_loopback(self) -> None:
        self.cluster.replace_file("hb", Path("/etc/hosts"), f"127.0.0.1 localhost\n127.0.1.1 hb\n{self.names}")


@pytest.mark.parametrize("fault", Fault.reports)
def test_fault_of_a_host_is_found_before_the_start(project: Path, tmp_path: Path, fault: str) -> None:
    with Cluster(tmp_path / "cluster", TWO) as cluster:
        configure(project, cluster, "ha:1,hb:1", processes=2)
        shutil.copy(project / "params.yaml", tmp_path)
        getattr(Fault(cluster, project, tmp_path), fault)()
        began_s = time.monotonic()
        code, output = output_of(cluster.launch(project, "--check"), 300)
        print(f"{fault}: {time.monotonic() - began_s:.1f} s")
    assert code == 1
    first, second = (line for line in output.splitlines() if line.startswith(("ha: ", "hb: ")))
    assert first.startswith("ha: ok, Python 3.")
    assert re.search(Fault.reports[fault], second)


def test_a_run_with_a_faulty_host_is_refused_in_one_line(project: Path, tmp_path: Path) -> None:
    with Cluster(tmp_path / "cluster", TWO) as cluster:
        configure(project, cluster, "ha:1,hb:1", processes=2)
        cluster.stop_sshd("hb")
        code, output = output_of(cluster.launch(project, "--", *TRAIN, "--output", "x/model", "--record", "x/record"))
    assert code == 1
    assert re.fullmatch(r"alpro: 1 of 2 hosts cannot take part: hb: cannot be reached over ssh .*\n", output)
