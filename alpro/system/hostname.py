"""This host's own name. Gloo looks it up to find the address for its ports, and crashes if the name does not resolve."""

from __future__ import annotations

import ipaddress
import socket


def fault(other_hosts: bool = False) -> str:
    """Return what is wrong with the host's own name and what to do, in one line; empty if nothing is.

    With `other_hosts`, processes on other hosts take part, so the name must not stand for a loopback address.
    """
    name = socket.gethostname()
    try:
        addresses = [entry[4][0] for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        return (
            f"this host's own name, {name!r}, does not resolve ({getattr(error, 'strerror', None) or error}); "
            f"add the line `127.0.0.1 {name}` to /etc/hosts, or this host's address in place of 127.0.0.1 for several hosts"
        )
    if other_hosts and ipaddress.ip_address(str(addresses[0]).partition("%")[0]).is_loopback:
        return (
            f"this host's own name, {name!r}, stands for {addresses[0]}, where other hosts cannot reach it; "
            "give it the host's own address in /etc/hosts"
        )
    return ""
