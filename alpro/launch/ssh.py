"""The commands by which the launcher reaches other hosts, by ssh or Slurm's srun, and the question which hosts are others."""

from __future__ import annotations

import os
import shlex
import socket
from dataclasses import dataclass

AGENT = "OMPI_MCA_plm_rsh_agent"  # the variable by which Kubeflow's MPI operator names its program
KUBEFLOW = "/etc/mpi/kubexec.sh"  # that program, which takes the place of ssh in its pods
ALIVE_S = 10


@dataclass(frozen=True)
class Ssh:
    """How to log in to the hosts; None leaves it to ssh's own configuration."""

    port: int | None = None
    identity: str | None = None

    def command(self, host: str, command: str, timeout_s: int | None = None) -> list[str]:
        """Return the words of a command that runs another one, given to the shell of `host`.

        Horovod's own form accepts every host key. This one leaves that check to ssh and its configuration, as secrets follow.
        """
        if os.environ.get(AGENT) == KUBEFLOW:
            return [KUBEFLOW, host, command]
        limit = [] if timeout_s is None else ["-o", f"ConnectTimeout={timeout_s}"]
        port = [] if self.port is None else ["-p", str(self.port)]
        key = [] if self.identity is None else ["-o", "IdentitiesOnly=yes", "-i", os.path.abspath(self.identity)]
        alive = ["-o", f"ServerAliveInterval={ALIVE_S}", "-o", "ServerAliveCountMax=3"]  # ends if the host vanishes
        return ["ssh", "-o", "BatchMode=yes", *alive, *limit, *port, *key, "--", host, command]

    def line(self, host: str, command: str, timeout_s: int | None = None) -> str:
        """Return `command` as one line for a shell."""
        return shlex.join(self.command(host, command, timeout_s))


@dataclass(frozen=True)
class Srun(Ssh):
    """How to reach the nodes of the Slurm allocation of this process, where ssh may not be allowed."""

    def command(self, host: str, command: str, timeout_s: int | None = None) -> list[str]:
        """Return the words of a command that runs another one in a step of its own on `host`, beside other steps."""
        limit = [] if timeout_s is None else [f"--immediate={timeout_s}"]
        place = ["--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={host}", "--cpu-bind=none"]
        return ["srun", "--quiet", *place, *limit, "sh", "-c", command]


def reach(program: str, port: int | None = None, identity: str | None = None) -> Ssh:
    """Return how to reach other hosts by `launch.remote_shell`."""
    return Srun() if program == "srun" else Ssh(port, identity)


def is_remote(host: str) -> bool:
    """Return True if a host name stands for another machine, or for none that is known."""
    try:
        address = socket.gethostbyname(host)
    except OSError:
        return True
    import psutil  # only a world of several hosts needs it

    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries if entry.family == socket.AF_INET}
    return address not in own
