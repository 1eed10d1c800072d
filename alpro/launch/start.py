"""Starts one rank: reads its variables from stdin, where no other user can see them, and becomes the rank's command.

Run as `python -I start.py COMMAND...` on the rank's host, before the project's paths are known, so it imports only the
standard library and psutil. psutil may be on the PYTHONPATH that the launcher sends, as a carried wheel is.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import json
import os
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence


def kept(variables: Mapping[str, str], patterns: Iterable[str]) -> dict[str, str]:
    """Return the variables whose names match one of the patterns (`*` stands for any characters)."""
    patterns = list(patterns)
    return {name: value for name, value in variables.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)}


def interface_to(address: str) -> str:
    """Return the name of the network interface through which this host reaches an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing; connect() only picks a route
        probe.connect((address, 9))
        own = probe.getsockname()[0]
    for name, networks in interfaces().items():
        if any(str(network.ip) == own for network in networks):
            return name
    raise OSError(f"no network interface has the address {own}")


def interfaces() -> dict[str, list[ipaddress.IPv4Interface]]:
    """Return the IPv4 addresses, with their networks, of each network interface of this host that is up."""
    import psutil

    found, states = {}, psutil.net_if_stats()
    for name, entries in psutil.net_if_addrs().items():
        addresses = [f"{entry.address}/{entry.netmask or 32}" for entry in entries if entry.family == socket.AF_INET]
        if addresses and name in states and states[name].isup:
            found[name] = [ipaddress.IPv4Interface(address) for address in addresses]
    return found


def interface_for(choices: Sequence[str], launcher: str) -> str:
    """Return the first of these interfaces, given as names or networks, that this host has.

    Without choices it is the one that leads to the launcher's address. Raises OSError if this host has none of them.
    """
    own = interfaces()
    for choice in choices:
        if choice in own:
            return choice
        if "/" in choice:
            network = ipaddress.IPv4Network(choice)
            for name, entries in own.items():
                if entries[0].ip in network:  # Gloo uses the first address of an interface
                    return name
    if choices:
        raise OSError(
            f"launch.network_interfaces: {socket.gethostname()} has none of {', '.join(choices)}; it has {shown(own)}"
        )
    return interface_to(launcher)


def shown(found: Mapping[str, Sequence[ipaddress.IPv4Interface]]) -> str:
    """Return interfaces and addresses on one line, without loopback."""
    names = (name for name in found if not found[name][0].is_loopback)
    return ", ".join(f"{name} {' '.join(map(str, found[name]))}" for name in names) or "no network interface"


def main() -> None:
    """Replace this process by the command, with the variables that the launcher sent."""
    message = json.load(sys.stdin)
    environment = kept(os.environ, message["host_variables"]) | message["variables"]
    sys.path += filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    try:
        interface = interface_for(message["interfaces"], message["launcher"])
    except OSError as error:
        sys.exit(f"alpro: {error}")
    environment["HOROVOD_GLOO_IFACE"] = interface  # of Horovod's Gloo; the others are read by torch's Gloo, and NCCL
    environment |= {name: environment.get(name, interface) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout.flush()
    os.execvpe(sys.argv[1], sys.argv[1:], environment)


if __name__ == "__main__":
    main()
