"""Starts the ranks of a world that use torch.distributed, as `torchrun` does, without its open port.

The ranks of `torchrun` find each other through a port on all network interfaces. Here they use a file in a folder that only
this user can open. Ranks on several hosts use a port of this program, on one address. As with alpro.launch.horovodrun, the
variables reach each rank through a pipe, inside ssh or srun for other hosts, and each line that a rank prints gets its number.

Run as `python -m alpro.launch.torchrun OPTIONS COMMAND...` by the supervisor, which sets ALPRO_LAUNCHER.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from alpro.launch import environment, heartbeat, start
from alpro.launch.ssh import is_remote, reach
from alpro.system import parent, place

SSH_TIMEOUT_S = 10
GRACE_S = 5.0  # for the other ranks to end after one has failed
OUTPUT_S = 1.0  # for the last lines of a rank that has ended; its own children may keep its output open


@dataclass(frozen=True)
class Slot:
    """One rank and the host that runs it."""

    rank: int
    host: str
    local_rank: int
    local_size: int


def assign(hosts: str, processes: int) -> list[Slot]:
    """Return the ranks of a world: each host of `name:slots,...` gets as many as it has slots, in order, until all have one."""
    slots: list[Slot] = []
    for entry in hosts.split(","):
        name, _, number = entry.rpartition(":")
        here = min(int(number), processes - len(slots))
        slots += [Slot(len(slots) + local_rank, name, local_rank, here) for local_rank in range(here)]
    if len(slots) < processes:
        sys.exit(f"launch.hosts has {len(slots)} slots, but launch.processes is {processes}")
    return slots


class World:
    """The processes of one run."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.ssh = reach(options.remote_shell, options.ssh_port, options.ssh_identity_file)
        self.address = os.environ[heartbeat.ADDRESS].rsplit(":", 2)[0]
        self.store = str(folder / "store")
        self.server: Any = None  # of the store, if there are several hosts
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ends: queue.Queue[tuple[int, int]] = queue.Queue()  # rank and exit code
        self.lock = threading.Lock()  # of the output

    def run(self) -> None:
        """Run all ranks to their end. Exits with a message if one fails."""
        slots = assign(self.options.hosts or f"localhost:{self.options.np}", self.options.np)
        remote = sorted({slot.host for slot in slots if is_remote(slot.host)})
        for host in remote:
            self._check_reach(host)
        if remote:
            self._serve_store(len(slots))
        try:
            for slot in slots:  # in the main thread, with which they end
                self._start(slot, len(slots))
            failed: list[tuple[int, int]] = []
            until_s: float | None = None  # when the others are killed
            for _ in slots:
                try:
                    rank, code = self.ends.get(timeout=None if until_s is None else max(0.0, until_s - time.monotonic()))
                except queue.Empty:
                    break
                if code:
                    self._print("stdout", f"Process {rank} exit with status code {code}.\n".encode())
                    failed.append((rank, code))
                    until_s = until_s or time.monotonic() + GRACE_S
        finally:
            for process in self.processes:
                process.kill()
        if failed:
            rank, code = failed[0]
            sys.exit(f"rank {rank} was the first to end with an error, exit code {code}")

    def _check_reach(self, host: str) -> None:
        """Exit with a message if a host cannot be reached without a password."""
        command = self.ssh.command(host, "true", SSH_TIMEOUT_S)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit(f"{self.options.remote_shell} to {host} failed: {' '.join(done.stdout.split())}")

    def _serve_store(self, size: int) -> None:
        """Serve the store in which the ranks publish their addresses, on the address of the run alone."""
        from torch.distributed import TCPStore

        with socket.create_server((self.address, 0), backlog=size) as server:
            port = server.getsockname()[1]
            self.server = TCPStore(
                self.address, port, is_master=True, wait_for_workers=False, master_listen_fd=os.dup(server.fileno())
            )
        self.store = f"{place.TCP}{self.address}:{port}"

    def _start(self, slot: Slot, size: int) -> None:
        command = [sys.executable, "-I", start.__file__, *self.options.command]
        if is_remote(slot.host):
            there = f"cd {shlex.quote(os.getcwd())} > /dev/null 2>&1 ; exec {shlex.join(command)}"
            command = self.ssh.command(slot.host, there)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=parent.die_with_parent,
        )
        self.processes.append(process)
        assert process.stdin and process.stdout and process.stderr
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which its exit code shows
            process.stdin.write(json.dumps(self._message(slot, size)).encode())
            process.stdin.close()
        readers = [
            threading.Thread(target=self._read, args=(slot.rank, name, stream), daemon=True)
            for name, stream in (("stdout", process.stdout), ("stderr", process.stderr))
        ]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._wait, args=(slot.rank, process, readers), daemon=True).start()

    def _message(self, slot: Slot, size: int) -> dict[str, Any]:
        """Return what a rank reads from its pipe; nothing is kept on disk."""
        numbers = (slot.rank, size, slot.local_rank, slot.local_size)
        variables = environment.sent_variables(os.environ)
        variables |= dict(zip(place.OF_TORCH, map(str, numbers), strict=True))
        variables[place.STORE] = self.store
        return {
            "launcher": self.address,
            "interfaces": self.options.network_interfaces.split(",") if self.options.network_interfaces else [],
            "variables": variables,
            "host_variables": environment.host_variables(),
        }

    def _read(self, rank: int, name: str, stream: IO[bytes]) -> None:
        for line in stream:
            self._print(name, f"[{rank}]<{name}>:".encode() + line.removesuffix(b"\n") + b"\n")

    def _wait(self, rank: int, process: subprocess.Popen[bytes], readers: list[threading.Thread]) -> None:
        code = process.wait()
        for reader in readers:
            reader.join(OUTPUT_S)
        self.ends.put((rank, code if code >= 0 else 128 - code))

    def _print(self, name: str, line: bytes) -> None:
        output = sys.stdout.buffer if name == "stdout" else sys.stderr.buffer
        with self.lock:
            output.write(line)
            output.flush()


def main() -> None:
    """Run a world."""
    parser = argparse.ArgumentParser(prog="alpro.launch.torchrun", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-np", type=int, required=True)
    parser.add_argument("-H", "--hosts")
    parser.add_argument("--network-interfaces")
    parser.add_argument("--remote-shell", default="ssh")
    parser.add_argument("--ssh-port", type=int)
    parser.add_argument("--ssh-identity-file")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the folder is removed
    with tempfile.TemporaryDirectory(prefix="alpro-launch-") as folder:
        World(options, Path(folder)).run()


if __name__ == "__main__":
    main()
