"""Starts one rank: reads its variables from stdin, where no other user can see them, and becomes the rank's command.

Run as `python -I start.py COMMAND...` on the rank's host, before the project's paths are known, so it imports only the
standard library and psutil.
"""

from __future__ import annotations

import fnmatch
import json
import os
import socket
import sys
from collections.abc import Iterable, Mapping

import psutil


def kept(variables: Mapping[str, str], patterns: Iterable[str]) -> dict[str, str]:
    """Return the variables whose names match one of the patterns (`*` stands for any characters)."""
    patterns = list(patterns)
    return {name: value for name, value in variables.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)}


def interface_to(address: str) -> str:
    """Return the name of the network interface through which this host reaches an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing; connect() only picks a route
        probe.connect((address, 9))
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.family == socket.AF_INET and entry.address == own for entry in addresses):
            return name
    raise OSError(f"no network interface has the address {own}")


def main() -> None:
    """Replace this process by the command, with the variables that the launcher sent."""
    message = json.load(sys.stdin)
    environment = kept(os.environ, message["host_variables"]) | message["variables"]
    interface = interface_to(message["launcher"])
    environment |= {"HOROVOD_GLOO_IFACE": interface, "NCCL_SOCKET_IFNAME": environment.get("NCCL_SOCKET_IFNAME", interface)}
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout.flush()
    os.execvpe(sys.argv[1], sys.argv[1:], environment)


if __name__ == "__main__":
    main()
