"""Hosts for tests, on one machine: each has namespaces of its own for network, host name, mounts and processes, and an sshd.

All hosts see the disk of this machine, as on a shared file system. Needs root, iproute2, util-linux and openssh-server. A
host's processes end with the `unshare` that holds its namespaces; nothing of this machine's own network is changed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from alpro.system import parent
from tests.training.processes import ROOT

LAUNCHER = "hl"
PORT = 2222
FRONT, BACK = "10.77.0", "10.77.1"  # networks: all hosts with the launcher; the hosts among themselves
TOOLS = ("ip", "tc", "bridge", "unshare", "nsenter", "ssh", "ssh-keygen", "/usr/sbin/sshd")


def missing() -> str:
    """Return why such hosts cannot be made here, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(absent)} (apt-get install iproute2 openssh-server)"
    tried = subprocess.run(["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"cannot make namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


class Host:
    """A set of namespaces, held by a process that waits."""

    def __init__(self, name: str) -> None:
        self.name = name
        setup = f"hostname {name} && mount -t tmpfs none /run && mkdir /run/sshd && echo ready && exec sleep infinity"
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", setup],
            stdout=subprocess.PIPE, text=True, preexec_fn=lambda: parent.set_parent_death_signal(signal.SIGKILL),
        )  # fmt: skip
        assert self.holder.stdout is not None and self.holder.stdout.readline() == "ready\n"
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children")
        self.pid = int(children.read_text().split()[0])
        self.run("ip", "link", "set", "lo", "up")

    def command(self, *words: str) -> list[str]:
        """Return the command that runs another one on this host, in this process's working directory."""
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', os.getcwd(), *words]
        return ["nsenter", "--target", str(self.pid), "--net", "--uts", "--mount", "--pid", *inside]

    def run(self, *words: str) -> str:
        """Run a command on this host; return its output."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True)
        assert done.returncode == 0, f"{self.name}: {shlex.join(words)}: {done.stderr}"
        return done.stdout

    def end(self) -> None:
        """Kill all processes of this host."""
        self.holder.kill()
        self.holder.communicate()


class Cluster:
    """A launcher and hosts on one or two networks. Use it in a `with` block."""

    def __init__(
        self,
        folder: Path,
        hosts: Mapping[str, Sequence[str]],
        apart: bool = False,
        slow: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        """`hosts` has the names of each host's interfaces: to the launcher, and to the other hosts if there is a second.

        With `apart` the hosts do not reach each other on the first network, only the launcher. `slow` has, for a host, the
        delay in ms and the loss in percent of what it sends on its first interface.
        """
        self.folder, self.hosts, self.slow = folder, dict[str, Host](), slow or {}
        self.cables: list[subprocess.Popen[str]] = []
        folder.mkdir()
        self.addresses = {name: f"{FRONT}.{number}" for number, name in enumerate((LAUNCHER, *hosts), 1)}
        self.key = folder / "key"
        for path in (self.key, *(folder / name for name in hosts)):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        (folder / "authorized").write_text((folder / "key.pub").read_text())
        (folder / "ssh").mkdir()
        known = (f"[{name}]:{PORT} {(folder / f'{name}.pub').read_text()}" for name in hosts)
        (folder / "ssh" / "ssh_known_hosts").write_text("".join(known))
        self.switch = Host("switch")
        for name, interfaces in {LAUNCHER: ("eth0",), **hosts}.items():
            self._add(name, interfaces)
        for name in hosts:
            self.start_sshd(name)
        for name in self.hosts:
            self.replace_file(name, Path("/etc/ssh"), folder / "ssh")
        if apart:
            for name in hosts:
                self.switch.run("bridge", "link", "set", "dev", f"{name}-0", "isolated", "on")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        for host in [*self.hosts.values(), self.switch]:
            host.end()
        for cable in self.cables:
            cable.kill()
            cable.communicate()

    @property
    def launcher(self) -> Host:
        return self.hosts[LAUNCHER]

    def launch(self, project: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
        """Start `alpro launch WORDS...` on the launcher, in the project's folder; stdout and stderr are combined."""
        return self.start(["env", "-C", str(project), sys.executable, "-m", "alpro", "launch", *words], **variables)

    def start(self, command: Sequence[str], **variables: str) -> subprocess.Popen[str]:
        """Start a command on the launcher."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "ALPRO_LIVE": "off", **variables}
        return subprocess.Popen(
            self.launcher.command(*command), env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def cut(self, name: str) -> None:
        """Pull the cables of a host: neither side is told."""
        for line in self.switch.run("ip", "-o", "link").splitlines():
            if (port := line.split()[1].split("@")[0]).startswith(f"{name}-"):
                self.switch.run("ip", "link", "set", port, "nomaster")

    def mend(self, name: str) -> None:
        """Plug in the first cable of a host again."""
        self.switch.run("ip", "link", "set", f"{name}-0", "master", "net0")

    def start_sshd(self, name: str, *settings: str) -> None:
        """Start sshd on a host, with further lines of its configuration."""
        file = self.folder / f"sshd_{name}"
        lines = [
            f"Port {PORT}", f"HostKey {self.folder / name}", f"AuthorizedKeysFile {self.folder / 'authorized'}", "PidFile none",
            "PermitRootLogin yes", "StrictModes no", "UsePAM no", "PasswordAuthentication no", "MaxStartups 50",
        ]  # fmt: skip
        file.write_text("\n".join([*settings, *lines]) + "\n")  # the first value of a setting counts
        self.hosts[name].run("/usr/sbin/sshd", "-f", str(file), "-E", str(self.folder / f"{name}.log"))
        until_s = time.monotonic() + 10
        while f":{PORT} " not in self.hosts[name].run("ss", "-ltn"):
            assert time.monotonic() < until_s, (self.folder / f"{name}.log").read_text()
            time.sleep(0.05)

    def stop_sshd(self, name: str) -> None:
        """Stop the sshd of a host; open connections stay."""
        self.hosts[name].run("sh", "-c", f"kill $(ss -Hltnp 'sport = {PORT}' | sed 's/.*pid=\\([0-9]*\\).*/\\1/' | head -1)")

    def replace_file(self, name: str, path: Path, content: str | Path) -> None:
        """Let one host see another content, or another file or folder, at a path."""
        if isinstance(content, str):
            file = self.folder / f"{name}-{path.name}"
            file.write_text(content)
        else:
            file = content
        self.hosts[name].run("mount", "--bind", str(file), str(path))

    def _add(self, name: str, interfaces: Sequence[str]) -> None:
        """Start a host with its interfaces and /etc/hosts."""
        host = self.hosts[name] = Host(name)
        number = self.addresses[name].rpartition(".")[2]
        for place, (network, interface) in enumerate(zip((FRONT, BACK)[: len(interfaces)], interfaces, strict=True)):
            port, bridge = f"{name}-{place}", f"net{place}"
            if f"{bridge}:" not in self.switch.run("ip", "link"):
                self.switch.run("ip", "link", "add", bridge, "type", "bridge")
                self.switch.run("ip", "link", "set", bridge, "up")
            inside = ["nsenter", "--target", str(self.switch.pid), "--net"]  # in this machine's process numbers
            if place == 0 and name in self.slow:
                delay_ms, loss_percent = map(str, self.slow[name])
                words = [sys.executable, "-m", "tests.launch.slow_cable", port, "far", delay_ms, loss_percent]
                cable = subprocess.Popen([*inside, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
                self.cables.append(cable)
                assert cable.stdout is not None and cable.stdout.readline() == "ready\n"
                subprocess.run([*inside, "ip", "link", "set", "far", "netns", str(host.pid), "name", interface], check=True)
            else:
                peer = ["peer", "name", interface, "netns", str(host.pid)]
                subprocess.run([*inside, "ip", "link", "add", port, "type", "veth", *peer], check=True)
            self.switch.run("ip", "link", "set", port, "master", bridge, "up")
            host.run("ip", "address", "add", f"{network}.{number}/24", "dev", interface)
            host.run("ip", "link", "set", interface, "up")
        names = "".join(f"{address} {other}\n" for other, address in self.addresses.items())
        self.replace_file(name, Path("/etc/hosts"), f"127.0.0.1 localhost\n{names}")
